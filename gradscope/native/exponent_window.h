/* Counts the sixteen or 32 greatest exponents of a block without tables, with bitslice.h. Elements with smaller
 * exponents are searched for and counted one by one; the remaining elements are zeros. Included by exponents.h. */

#include "bitslice.h"

enum {
    CHUNK = 4 * WIDTH, /* number of elements searched at a time; bitslice.h also counts whole chunks */
    MANY = 128,        /* a second window is used if one element in this number is below the first window */
    TOO_MANY = 16,     /* tables are faster if one element in this number is below both windows */
    PAUSE = 31,        /* number of blocks that are then counted with tables before the next try */
};

#define LANES_OF(bits)                                                      \
    typedef uint##bits##_t Lanes##bits __attribute__((vector_size(WIDTH))); \
    typedef uint##bits##_t Loose##bits __attribute__((vector_size(WIDTH), aligned(1), may_alias));
LANES_OF(16)
LANES_OF(32)
LANES_OF(64)

/* Reduce the mask of HIGHEST_BITS, one bit per byte, to one bit per element. */
#define ONE_OF16 UINT64_C(0x5555555555555555)
#define ONE_OF32 UINT64_C(0x1111111111111111)
#define ONE_OF64 UINT64_C(0x0101010101010101)

/* The bits of an element, doubled, are its magnitude without the sign. After subtracting two, a zero is the greatest
 * value, and elements below the window are less than `limit`. The minimum of a chunk shows whether there are any (the
 * minimum of the upper halves, if there is no vector minimum for whole elements). */
#define COUNT_BELOW_WINDOW(bits, compared, fraction, code_of)                                        \
    for (at = 0; at < n && *found < most; at += CHUNK) {                                             \
        const uint##bits##_t limit = (uint##bits##_t)(((uint##bits##_t)base << (fraction + 1)) - 2); \
        const Bits##bits *x = (const Bits##bits *)data + at;                                         \
        Lanes##compared lesser = (Lanes##compared){0} - 1;                                           \
        for (size_t i = 0; i < CHUNK; i += WIDTH * 8 / bits) {                                       \
            const Lanes##bits lanes = *(const Loose##bits *)(x + i);                                 \
            lesser = LEAST##compared(lesser, lanes + lanes - 2);                                     \
        }                                                                                            \
        uint##compared##_t least = (uint##compared##_t) - 1;                                         \
        for (size_t j = bits / compared - 1; j < WIDTH * 8 / compared; j += bits / compared) {       \
            least = lesser[j] < least ? lesser[j] : least;                                           \
        }                                                                                            \
        const int is_any = least <= (uint##compared##_t)((limit - 1) >> (bits - compared));          \
        for (size_t i = 0; is_any && i < CHUNK; i += WIDTH * 8 / bits) {                             \
            const Lanes##bits lanes = *(const Loose##bits *)(x + i);                                 \
            uint64_t set = HIGHEST_BITS(lanes + lanes - 2 < limit) & ONE_OF##bits;                   \
            for (; set != 0; set &= set - 1, ++*found) {                                             \
                const size_t place = i + (size_t)__builtin_ctzll(set) * 8 / bits;                    \
                counter->tables[code_of(x[place] >> fraction)]++;                                    \
            }                                                                                        \
        }                                                                                            \
    }
#define SAME(code) (code)
#define OF_FLOAT64(code) code_of_float64[code]

/* Count nonzero elements below `base`, chunk by chunk until `most` are found. Returns how many elements were
 * searched. */
TARGET static size_t count_below_window(ExponentCounter *counter, const char *data, size_t n, Dtype dtype,
                                        uint32_t base, size_t most, size_t *found)
{
    size_t at;
    *found = 0;
    if (dtype == FLOAT64) {
        COUNT_BELOW_WINDOW(64, 32, 52, OF_FLOAT64)
    } else if (dtype == BFLOAT16) {
        COUNT_BELOW_WINDOW(16, 16, 7, SAME)
    } else {
        COUNT_BELOW_WINDOW(32, 32, 23, SAME)
    }
    return at;
}

/* Count the elements in a window, in whole chunks of n. Returns how many there are. */
TARGET static size_t count_window(ExponentCounter *counter, const char *data, size_t n, Dtype dtype,
                                  uint32_t base)
{
    uint32_t counts[2][WINDOW];
    size_t inside = 0;
    if (dtype == FLOAT64) {
        count_float64(data, n, base, counts);
    } else if (dtype == BFLOAT16) {
        count_bfloat16(data, n, base, counts);
    } else {
        count_float32(data, n, base, counts);
    }
    for (uint32_t i = 0; i < WINDOW; i++) {
        const uint32_t code = dtype == FLOAT64 ? code_of_float64[base + i] : base + i;
        counter->tables[code] += counts[1][i];
        counter->tables[code + SIGN] += counts[0][i] - counts[1][i];
        inside += counts[0][i];
    }
    return inside;
}

/* The first exponent, in the bits of its type, of the window that ends with the greatest exponent of a block. No
 * window includes the exponent of zeros. */
static uint32_t find_base(const Record *block, Dtype dtype)
{
    const double greatest = block->max > -block->min ? block->max : -block->min;
    uint64_t bits;
    memcpy(&bits, &greatest, sizeof bits);
    const int exponent = (int)(bits >> 52 & 2047) - (dtype == FLOAT64 ? 0 : 1023 - 127);
    return exponent > WINDOW ? (uint32_t)(exponent - WINDOW + 1) : 1;
}

/* Count whole chunks of n finite elements with the extremes in `block`. Returns how many elements were counted. */
TARGET static size_t count_in_window(ExponentCounter *counter, const char *data, size_t n, Dtype dtype,
                                     const Record *block)
{
    const size_t whole = n - n % CHUNK;
    uint32_t base = find_base(block, dtype);
    const size_t few = base > WINDOW ? whole / MANY : whole;
    size_t at = 0, found;
    size_t left = whole - count_window(counter, data, whole, dtype, base);
    if (left > 0 && !(counter->is_wide && base > WINDOW)) {
        at = count_below_window(counter, data, whole, dtype, base, few, &found);
        left -= found;
    }
    if (left > 0 && at < whole) {
        base -= WINDOW;
        data += at * size_of(dtype);
        const size_t inside = count_window(counter, data, whole - at, dtype, base);
        count_below_window(counter, data, whole - at, dtype, base, whole, &found);
        left -= inside + found;
        counter->is_wide = inside > few;
        if (found > whole / TOO_MANY || (counter->is_wide && !TWO_WINDOWS_PAY)) {
            counter->pause = PAUSE;
        }
    }
    counter->zero += left;
    counter->small = count_small(counter);
    return whole;
}
