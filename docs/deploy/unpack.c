/* Reads a file of packed parameters (detector-packed.bin) and prints its tensors.

   gcc -std=c99 -O2 unpack.c -o unpack && ./unpack edge/detector-packed.bin

   One line a tensor: name, bits, shape, number of values, and the sum of the values and of
   their squares. `value` holds the float32 weights for your own program. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *data;
static size_t size, place;

static const unsigned char *take(size_t count) {
    if (count > size - place) { fprintf(stderr, "cut short at byte %zu\n", place); exit(2); }
    place += count;
    return data + place - count;
}

static uint32_t number(int bytes) { /* little-endian */
    const unsigned char *at = take(bytes);
    uint32_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | at[i];
    return value;
}

static float real(const unsigned char *at) {
    uint32_t word = at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static void tensor(void) {
    char name[1024];
    uint32_t length = number(2), shape[8];
    if (length >= sizeof name) { fprintf(stderr, "a name of %u bytes\n", length); exit(2); }
    memcpy(name, take(length), length);
    name[length] = 0;
    uint32_t bits = number(1), axes = number(1), axis = number(1), sparse = number(1);
    int known = bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 32;
    if (!known || sparse > 1 || axes > 8 || (bits < 32 && axis >= axes)) { fprintf(stderr, "bad head\n"); exit(2); }
    size_t count = 1, behind = 1; /* values in all, and behind the axis of channels */
    for (uint32_t i = 0; i < axes; i++) {
        shape[i] = number(4);
        count *= shape[i];
        if (i > axis) behind *= shape[i];
    }
    const unsigned char *scales = bits < 32 ? take(4 * (size_t)shape[axis]) : 0;
    const unsigned char *places = sparse ? take((count + 7) / 8) : 0;
    size_t others = sparse ? 0 : count; /* values that are not zero */
    for (size_t i = 0; sparse && i < count; i++) others += places[i / 8] >> i % 8 & 1;
    const unsigned char *stored = take((others * bits + 7) / 8);
    double sum = 0, squares = 0;
    for (size_t i = 0, j = 0; i < count; i++) {
        float value = 0;
        if (sparse && !(places[i / 8] >> i % 8 & 1)) {
            /* a zero, which is not stored */
        } else if (bits == 32) {
            value = real(stored + 4 * j++);
        } else {
            size_t each = 8 / bits, channel = i / behind % shape[axis];
            int level = stored[j / each] >> (j % each * bits) & ((1 << bits) - 1);
            if (bits == 1) level = level ? 1 : -1;
            else if (level >= 1 << (bits - 1)) level -= 1 << bits; /* two's complement */
            value = level * real(scales + 4 * channel);
            j++;
        }
        sum += value;
        squares += (double)value * value;
    }
    printf("%s %u (", name, bits);
    for (uint32_t i = 0; i < axes; i++) printf(i ? ", %u" : "%u", shape[i]);
    printf(") %zu %.6g %.6g\n", count, sum, squares);
    take((4 - place % 4) % 4);
}

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : 0;
    if (!file) { fprintf(stderr, "usage: unpack FILE\n"); return 2; }
    fseek(file, 0, SEEK_END);
    size = (size_t)ftell(file);
    rewind(file);
    data = malloc(size ? size : 1);
    if (!data || fread(data, 1, size, file) != size) { fprintf(stderr, "cannot read\n"); return 2; }
    fclose(file);
    int known = !memcmp(take(4), "GCPQ", 4);
    uint32_t version = number(4);
    if (!known || version < 1 || version > 2) { fprintf(stderr, "not packed\n"); return 2; }
    for (uint32_t left = number(4); left; left--) tensor();
    free(data);
    return 0;
}
