/* Counts sixteen neighbouring exponents with vector instructions. A lookup maps each of WIDTH exponents to one bit of
 * eight. The bits are summed in bit planes: a plane of ones, a plane of twos, and so on. This takes two instructions
 * per lookup, while a table takes a read and a write per element. Included by exponent_window.h. These
 * macros describe the instruction set:
 *   PACK(a, b)              two vectors of 16-bit integers up to 255 as one vector of bytes, in any order,
 *   PACK_SIGNS(a, b)        the same for any integers, in order; only the sign bits are used,
 *   LOOK_UP(table, x)       for each byte of x, the entry in a table of sixteen; 0 if the byte's highest bit is set,
 *   ADD_SATURATED(a, b)     the saturated sum of bytes,
 *   LEAST16(a, b), LEAST32(a, b)   the minimum of unsigned integers in each lane,
 *   HIGHEST_BITS(x)         the highest bit of each byte, as one integer,
 *   BITS_AT(x, place)       one bit of each byte, as one integer,
 *   SUM_OF_BITS(a, b, c), CARRY_OF_BITS(a, b, c)   a + b + c for each bit: the sum bit and the carry bit,
 *   TWO_WINDOWS_PAY         whether counting 32 exponents is faster this way than with tables. */

enum {
    WINDOW = 16,
    STREAMS = 4, /* lower and upper eight exponents of all elements, then of the positive elements */
    PLANES = 8,  /* for up to 128 steps in a block: 4096 / WIDTH */
};

typedef uint8_t bytes __attribute__((vector_size(WIDTH)));
typedef uint16_t words __attribute__((vector_size(WIDTH)));
typedef uint32_t longs __attribute__((vector_size(WIDTH)));
typedef uint64_t quads __attribute__((vector_size(WIDTH)));
typedef uint8_t loose_bytes __attribute__((vector_size(WIDTH), aligned(1), may_alias));

typedef struct {
    bytes of[STREAMS];
} BitPlanes;

typedef struct {
    BitPlanes planes[PLANES];
    const char *data;
    uint16_t base; /* the first of the exponents */
} BitCounter;

/* The upper sixteen bits of WIDTH / 2 elements, in any order. */
#define LOADED(type, here) ((type) * (const loose_bytes *)(here))
#define UPPER_bfloat16(here) LOADED(words, here)
#define UPPER_float32(here) \
    (words)(LOADED(longs, here) >> 16 | (LOADED(longs, (here) + WIDTH) & UINT32_C(0xffff0000)))
#define UPPER_32_BITS(here) \
    (longs)(LOADED(quads, here) >> 32 | (LOADED(quads, (here) + WIDTH) & UINT64_C(0xffffffff00000000)))
#define UPPER_float64(here) \
    (words)(UPPER_32_BITS(here) >> 16 | (UPPER_32_BITS((here) + 2 * WIDTH) & UINT32_C(0xffff0000)))

/* Exponents minus the base, as bytes. Exponents below the base or above the window give 16 or more. */
#define FROM_BASE_bfloat16(a, b, base) (PACK(a, b) - (uint8_t)(base))
#define FROM_BASE_float32(a, b, base) FROM_BASE_bfloat16(a, b, base)
#define LEAST_255(x) (words) LEAST16(x, (words){0} + 255)
#define FROM_BASE_float64(a, b, base) PACK(LEAST_255((a) - (base)), LEAST_255((b) - (base)))

#define INLINE TARGET static inline __attribute__((always_inline))

#define FOUR_TIMES(...) {__VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__}
static const uint8_t lower_bits[64] = FOUR_TIMES(1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0);
static const uint8_t upper_bits[64] = FOUR_TIMES(0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128);

INLINE BitPlanes add_bits(BitPlanes *plane, BitPlanes a, BitPlanes b)
{
    BitPlanes carried;
    for (size_t s = 0; s < STREAMS; s++) {
        const bytes sum = plane->of[s];
        plane->of[s] = SUM_OF_BITS(sum, a.of[s], b.of[s]);
        carried.of[s] = CARRY_OF_BITS(sum, a.of[s], b.of[s]);
    }
    return carried;
}

INLINE void carry_on(BitCounter *counter, BitPlanes carried, size_t plane)
{
    for (; plane < PLANES; plane++) {
        for (size_t s = 0; s < STREAMS; s++) {
            const bytes sum = counter->planes[plane].of[s];
            counter->planes[plane].of[s] = sum ^ carried.of[s];
            carried.of[s] &= sum;
        }
    }
}

/* Add up the counts of each exponent after some steps: for all elements and for the positive elements. */
TARGET static void read_planes(const BitPlanes *planes, size_t steps, uint32_t counts[2][WINDOW])
{
    memset(counts, 0, 2 * WINDOW * sizeof counts[0][0]);
    for (size_t plane = 0; steps >> plane; plane++) {
        for (size_t s = 0; s < STREAMS; s++) {
            const bytes x = planes[plane].of[s];
            for (int place = 0; place < 8; place++) {
                const uint32_t set = (uint32_t)__builtin_popcountll(BITS_AT(x, place));
                counts[s / 2][s % 2 * 8 + place] += set << plane;
            }
        }
    }
}

/* Each level adds twice as many elements as the previous level, and returns the carry. */
#define TWICE(more, fewer, name, plane)                                                    \
    INLINE BitPlanes more##_##name(BitCounter *counter)                                    \
    {                                                                                      \
        const BitPlanes first = fewer##_##name(counter), second = fewer##_##name(counter); \
        return add_bits(&counter->planes[plane], first, second);                           \
    }

/* Count the sixteen exponents from `base` (at least 1) on, in n elements. Returns the number of processed elements,
 * a multiple of four steps. `size`: bytes of an element. `fraction`: mantissa bits in its upper sixteen bits. */
#define COUNT_OF(name, size, fraction)                                                                       \
    INLINE BitPlanes one_##name(BitCounter *counter)                                                         \
    {                                                                                                        \
        const words a = UPPER_##name(counter->data);                                                         \
        const words b = UPPER_##name(counter->data + size * WIDTH / 2);                                      \
        const bytes from_base =                                                                              \
            FROM_BASE_##name((a + a) >> (fraction + 1), (b + b) >> (fraction + 1), counter->base);           \
        const bytes place = ADD_SATURATED(from_base, (bytes){0} + 0x70); /* highest bit: 16 or more */       \
        const bytes unsigned_place = place | (PACK_SIGNS(a, b) & 0x80);                                      \
        counter->data += size * WIDTH;                                                                       \
        const bytes lower = LOADED(bytes, lower_bits), upper = LOADED(bytes, upper_bits);                    \
        return (BitPlanes){{LOOK_UP(lower, place), LOOK_UP(upper, place), LOOK_UP(lower, unsigned_place),    \
                            LOOK_UP(upper, unsigned_place)}};                                                \
    }                                                                                                        \
    TWICE(two, one, name, 0)                                                                                 \
    TWICE(four, two, name, 1)                                                                                \
    TWICE(eight, four, name, 2)                                                                              \
    TWICE(sixteen, eight, name, 3)                                                                           \
    TARGET static size_t count_##name(const char *data, size_t n, uint32_t base, uint32_t counts[2][WINDOW]) \
    {                                                                                                        \
        const size_t steps = n / WIDTH / 4 * 4;                                                              \
        BitCounter counter = {{{{{0}}}}, data, (uint16_t)base};                                              \
        size_t left = steps;                                                                                 \
        for (; left >= 16; left -= 16) {                                                                     \
            carry_on(&counter, sixteen_##name(&counter), 4);                                                 \
        }                                                                                                    \
        for (; left > 0; left -= 4) {                                                                        \
            carry_on(&counter, four_##name(&counter), 2);                                                    \
        }                                                                                                    \
        read_planes(counter.planes, steps, counts);                                                          \
        return steps * WIDTH;                                                                                \
    }
COUNT_OF(float32, 4, 7)
COUNT_OF(bfloat16, 2, 7)
COUNT_OF(float64, 8, 4)
