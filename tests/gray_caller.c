/* Calls mura_gray_pixels with images of any size and any bytes, each buffer exactly as large as it has to be. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int mura_gray_pixels(const uint8_t *lines, int filtered, int width, int height, int bpp, uint8_t *out, int out_width,
                     int out_height);

int main(int count, char **arguments) {
    int images = count > 1 ? atoi(arguments[1]) : 100, refused = 0;
    uint32_t sum = 2166136261u; /* FNV-1a of all pixels */
    srand(7);
    for (int i = 0; i < images; i++) {
        int most = i % 10 ? 70 : 700;
        int width = 1 + rand() % most, height = 1 + rand() % most, bpp = i % 3 ? 1 : 3, filtered = i % 7 != 0;
        int out_width = 1 + rand() % 100, out_height = 1 + rand() % 100;
        size_t stride = filtered + (size_t)width * bpp;
        uint8_t *lines = malloc(stride * height), *out = malloc((size_t)out_width * out_height);
        for (size_t at = 0; at < stride * height; at++) lines[at] = rand() >> 8;
        for (int y = 0; filtered && y < height; y++) lines[y * stride] = rand() % (i % 50 ? 5 : 6);
        if (mura_gray_pixels(lines, filtered, width, height, bpp, out, out_width, out_height))
            refused++;
        else
            for (int at = 0; at < out_width * out_height; at++) sum = (sum ^ out[at]) * 16777619u;
        free(lines);
        free(out);
    }
    printf("%d images, %d refused, sum %08x\n", images, refused, sum);
    return 0;
}
