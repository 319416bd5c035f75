"""From labelled images to weights: the recipe of the MURA paper (Rajpurkar et al. 2018, section 3)."""
