/* The scanlines of a PNG file, inflated but filtered, to gray pixels of the network's size.
 *
 * Rows are unfiltered sixteen at a time, each one pixel behind the row above it: a filter looks at the pixel to the left
 * and at two in the row above, so all that a step needs came out of earlier steps. The resize is Pillow's antialiased
 * bilinear one (a triangle as wide as the scale; Pillow's Resample.c), bit for bit: 22-bit weights, each pass rounded to
 * eight bits, along the rows first. No Python in here, and no state: any thread may call it.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define PAD 64  /* bytes around a row: what sixteen rows, three bytes a pixel, lag behind, and one vector more */
#define BITS 22 /* of a weight */

enum { DONE = 0, NO_MEMORY = 1, NO_SUCH_FILTER = 2, WRONG_SIZE = 3 };
enum { NONE, SUB, UP, AVERAGE, PAETH, FILTERS }; /* PNG, third edition, section 9.2 */

typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif
#define INLINE static inline __attribute__((always_inline))

static int rounded(int value) { return (value + LANES - 1) / LANES * LANES; }

INLINE void transpose_tile(u8x16 tile[LANES]) {
    for (int round = 0; round < 4; round++) {
        u8x16 next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            u8x16 a = tile[i], b = tile[i + LANES / 2];
            next[2 * i] = SHUFFLE(u8x16, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            next[2 * i + 1] = SHUFFLE(u8x16, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(tile, next, sizeof next);
    }
}

INLINE i16x16 magnitude(i16x16 value) {
    i16x16 sign = value >> 15;
    return (value ^ sign) - sign;
}

INLINE i16x16 either(i16x16 mask, i16x16 yes, i16x16 no) { return (mask & yes) | (~mask & no); }

/* Sixteen rows of `stride` bytes: from `filtered` (rows `pitch` apart, zeros on their left) to `rows` (`pitch` apart,
 * with the finished row above in front of them). `filters` has each row's. */
INLINE void unfilter(const uint8_t *filtered, uint8_t *rows, int stride, size_t pitch, const uint8_t *filters, int bpp) {
    const uint8_t *above = rows - pitch;
    i16x16 take_left, take_up, average; /* all ones where a row's filter looks there */
    int averages = 0;
    for (int k = 0; k < LANES; k++) {
        take_left[k] = -(filters[k] == SUB || filters[k] >= AVERAGE);
        take_up[k] = -(filters[k] >= UP);
        average[k] = -(filters[k] == AVERAGE);
        averages |= filters[k] == AVERAGE;
    }
    /* Paeth's predictor is the left pixel where those above are 0, and the upper one where the others are. */
    i16x16 take_corner = take_left & take_up & ~average;
    i16x16 left[3] = {{0}}, up[3] = {{0}}; /* of the last steps, the oldest first */
    for (int start = 0; start < stride + bpp * (LANES - 1); start += LANES) {
        u8x16 tile[LANES];
        for (int k = 0; k < LANES; k++) memcpy(&tile[k], filtered + k * pitch + start - bpp * k, LANES);
        transpose_tile(tile);
        for (int j = 0; j < LANES; j++) {
            i16x16 before = {above[start + j]};
            i16x16 b = SHUFFLE(i16x16, left[0], before, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
            i16x16 a = left[0] & take_left, c = up[0] & take_corner, b_ = b & take_up;
            i16x16 to_b = b_ - c, to_a = a - c;
            i16x16 far_a = magnitude(to_b), far_b = magnitude(to_a), far_c = magnitude(to_a + to_b);
            i16x16 guess = either((far_a <= far_b) & (far_a <= far_c), a, either(far_b <= far_c, b_, c));
            if (averages) guess = either(average, (a + b_) >> 1, guess);
            i16x16 value = (__builtin_convertvector(tile[j], i16x16) + guess) & 255;
            tile[j] = __builtin_convertvector(value, u8x16);
            for (int i = 0; i < bpp - 1; i++) {
                left[i] = left[i + 1];
                up[i] = up[i + 1];
            }
            left[bpp - 1] = value;
            up[bpp - 1] = b;
        }
        transpose_tile(tile);
        for (int k = 0; k < LANES; k++) memcpy(rows + k * pitch + start - bpp * k, &tile[k], LANES);
    }
}

/* Pixels to their luminance, as Pillow's convert("L") has it (ITU-R 601). */
INLINE void to_gray(const uint8_t *restrict row, uint8_t *restrict gray, int width) {
    for (int x = 0; x < width; x++)
        gray[x] = (row[3 * x] * 19595 + row[3 * x + 1] * 38470 + row[3 * x + 2] * 7471 + 0x8000) >> 16;
}

/* `height` x `width` bytes to `width` x `height`; both sizes are taken up to whole tiles, for which there is room. */
INLINE void transpose(const uint8_t *from, size_t from_pitch, int height, int width, uint8_t *to, size_t to_pitch) {
    for (int y = 0; y < height; y += LANES)
        for (int x = 0; x < width; x += LANES) {
            u8x16 tile[LANES];
            for (int k = 0; k < LANES; k++) memcpy(&tile[k], from + (y + k) * from_pitch + x, LANES);
            transpose_tile(tile);
            for (int k = 0; k < LANES; k++) memcpy(to + (x + k) * to_pitch + y, &tile[k], LANES);
        }
}

/* `height` rows to `target` rows, `width` bytes each, taken up to whole vectors, for which there is room. */
INLINE void resize_rows(const uint8_t *from, size_t pitch, int height, int width, uint8_t *to, size_t to_pitch,
                        int target, double *weights, int32_t *fixed) {
    double scale = (double)height / target, support = scale < 1 ? 1 : scale;
    for (int y = 0; y < target; y++) {
        double center = (y + 0.5) * scale, sum = 0;
        int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
        first = first < 0 ? 0 : first;
        end = end > height ? height : end;
        for (int i = first; i < end; i++) {
            double far = fabs((i - center + 0.5) * (1.0 / support));
            weights[i - first] = far < 1 ? 1 - far : 0;
            sum += weights[i - first];
        }
        for (int i = 0; i < end - first; i++) fixed[i] = (int32_t)(0.5 + weights[i] / sum * (1 << BITS));
        const uint8_t *rows = from + (size_t)first * pitch;
        for (int x = 0; x < width; x += LANES) {
            i32x4 half = (i32x4){0} + (1 << (BITS - 1)), a = half, b = half, c = half, d = half;
            for (int i = 0; i < end - first; i++) {
                u8x16 pixels, none = {0};
                memcpy(&pixels, rows + i * pitch + x, LANES);
                u8x16 low = SHUFFLE(u8x16, pixels, none, 0, 16, 1, 16, 2, 16, 3, 16, 4, 16, 5, 16, 6, 16, 7, 16);
                u8x16 high = SHUFFLE(u8x16, pixels, none, 8, 16, 9, 16, 10, 16, 11, 16, 12, 16, 13, 16, 14, 16, 15, 16);
                a += (i32x4)SHUFFLE(u8x16, low, none, 0, 1, 16, 16, 2, 3, 16, 16, 4, 5, 16, 16, 6, 7, 16, 16) * fixed[i];
                b += (i32x4)SHUFFLE(u8x16, low, none, 8, 9, 16, 16, 10, 11, 16, 16, 12, 13, 16, 16, 14, 15, 16, 16) * fixed[i];
                c += (i32x4)SHUFFLE(u8x16, high, none, 0, 1, 16, 16, 2, 3, 16, 16, 4, 5, 16, 16, 6, 7, 16, 16) * fixed[i];
                d += (i32x4)SHUFFLE(u8x16, high, none, 8, 9, 16, 16, 10, 11, 16, 16, 12, 13, 16, 16, 14, 15, 16, 16) * fixed[i];
            }
            /* Weights are not negative and add up to 1 but for their rounding, so nothing goes beyond 255. */
            u8x16 ab = SHUFFLE(u8x16, (u8x16)(a >> BITS), (u8x16)(b >> BITS), 0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
            u8x16 cd = SHUFFLE(u8x16, (u8x16)(c >> BITS), (u8x16)(d >> BITS), 0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
            u8x16 pixels = SHUFFLE(u8x16, ab, cd, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
            memcpy(to + y * to_pitch + x, &pixels, LANES);
        }
    }
}

INLINE int convert(const uint8_t *lines, int filtered, int width, int height, int bpp, uint8_t *out, int out_width,
                   int out_height) {
    int stride = width * bpp, high = rounded(height), wide = rounded(width);
    int out_high = rounded(out_height), out_wide = rounded(out_width);
    size_t pitch = (size_t)PAD + stride + PAD, turned = (size_t)high, thin = (size_t)out_wide;
    uint8_t *memory = calloc(1, (LANES + 1 + (size_t)high) * pitch);
    uint8_t *planes = malloc(((size_t)wide + out_wide) * turned + ((size_t)high + out_high) * thin + LANES);
    double *weights = malloc((sizeof(double) + sizeof(int32_t)) * ((size_t)(height > width ? height : width) + 3));
    int result = memory && planes && weights ? DONE : NO_MEMORY;
    if (result == DONE) {
        uint8_t *scratch = memory + PAD, *image = memory + (LANES + 1) * pitch + PAD;
        for (int y = 0; y < height && !filtered; y++) memcpy(image + y * pitch, lines + (size_t)y * stride, stride);
        for (int y = 0; y < height && filtered && result == DONE; y += LANES) {
            uint8_t filters[LANES] = {0};
            for (int k = 0; k < LANES && y + k < height; k++) {
                const uint8_t *line = lines + (size_t)(y + k) * (1 + (size_t)stride);
                filters[k] = line[0];
                if (line[0] >= FILTERS) result = NO_SUCH_FILTER;
                memcpy(scratch + k * pitch, line + 1, stride);
            }
            if (result == DONE) {
                if (bpp == 1)
                    unfilter(scratch, image + y * pitch, stride, pitch, filters, 1);
                else
                    unfilter(scratch, image + y * pitch, stride, pitch, filters, 3);
            }
        }
        if (result == DONE) {
            if (bpp == 3)
                for (int y = 0; y < height; y++) {
                    to_gray(image + y * pitch, scratch, width);
                    memcpy(image + y * pitch, scratch, width);
                }
            uint8_t *columns = planes, *fewer = columns + wide * turned, *back = fewer + out_wide * turned;
            uint8_t *last = back + high * thin;
            int32_t *fixed = (int32_t *)(weights + (height > width ? height : width) + 3);
            transpose(image, pitch, height, width, columns, turned);
            resize_rows(columns, turned, width, height, fewer, turned, out_width, weights, fixed);
            transpose(fewer, turned, out_width, height, back, thin);
            resize_rows(back, thin, height, out_width, last, thin, out_height, weights, fixed);
            for (int y = 0; y < out_height; y++) memcpy(out + (size_t)y * out_width, last + y * thin, out_width);
        }
    }
    free(weights);
    free(planes);
    free(memory);
    return result;
}

#if defined(__x86_64__) && !defined(PLAIN)
#define HAS_AVX2
__attribute__((target("avx2"))) static int convert_avx2(const uint8_t *lines, int filtered, int width, int height,
                                                         int bpp, uint8_t *out, int out_width, int out_height) {
    return convert(lines, filtered, width, height, bpp, out, out_width, out_height);
}
#endif

int mura_gray_pixels(const uint8_t *lines, int filtered, int width, int height, int bpp, uint8_t *out, int out_width,
                     int out_height) {
#ifdef HAS_AVX2
    if (__builtin_cpu_supports("avx2"))
        return convert_avx2(lines, filtered, width, height, bpp, out, out_width, out_height);
#endif
    return convert(lines, filtered, width, height, bpp, out, out_width, out_height);
}
