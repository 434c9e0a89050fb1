/* The digest of a tensor: the sum modulo 2^64 of mix(index, bits) over its elements; included by pass.h.
 *
 * `index` is the element's index in the whole tensor in C order, so neither the order of reading, nor the layout in
 * memory, nor the division among ranks matters: parts are added. With all numbers modulo 2^64:
 *     x = bits, in both halves if the element has 32 bits or less
 *     z = round(x ^ (index + 1) * DIGEST_STEP);   mix = round(z ^ DIGEST_CONSTANT)
 *     round(z) = (lower 32 bits) * (upper 32 bits) + z rotated by 32 bits
 * Collisions: after one round, sums of similar elements take few values. After two, parts of 32 and of 40 bits of the
 * digests of tensors that differ in one bit, in a sign, by a swap of neighbours, or in any subset of 20 elements collide
 * at most four times as often as those of random numbers, so two different tensors have one digest by chance in about
 * one of 2^62 cases. A digest does not protect against a person who searches for a collision. gradscope/observe/digests.py computes the same with PyTorch's operations. */

/* An element of BYTES bytes at `here`, as x. */
#define DIGEST_ELEMENT(name, type, doubled)                               \
    TARGET static inline uint64_t element_of_##name(const char *here)     \
    {                                                                     \
        type bits;                                                        \
        memcpy(&bits, here, sizeof bits);                                 \
        return (doubled) ? (uint64_t)bits * UINT64_C(0x100000001) : bits; \
    }
DIGEST_ELEMENT(1, uint8_t, 1)
DIGEST_ELEMENT(2, uint16_t, 1)
DIGEST_ELEMENT(4, uint32_t, 1)
DIGEST_ELEMENT(8, uint64_t, 0)

typedef uint64_t Lanes64 __attribute__((vector_size(WIDTH)));

#ifndef SWAP_HALVES
#define SWAP_HALVES(z) ((z) >> 32 | (z) << 32)
#define MULTIPLY_LOWER(a, b) (((a) & (0xffffffff - (Lanes64){0})) * ((b) & (0xffffffff - (Lanes64){0})))
#endif

TARGET static inline Lanes64 mix_round(Lanes64 z)
{
    const Lanes64 swapped = SWAP_HALVES(z);
    return MULTIPLY_LOWER(z, swapped) + swapped;
}

/* The halves of 32 bits that come first in each lane in memory, or second, in both halves of a lane. */
#ifndef DOUBLE_FIRST
#define LOWER (0xffffffff - (Lanes64){0})
#define DOUBLE_LOWER(z) (((z) & LOWER) | (z) << 32)
#define DOUBLE_UPPER(z) ((z) >> 32 | ((z) & ~LOWER))
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define DOUBLE_FIRST DOUBLE_UPPER
#define DOUBLE_SECOND DOUBLE_LOWER
#else
#define DOUBLE_FIRST DOUBLE_LOWER
#define DOUBLE_SECOND DOUBLE_UPPER
#endif
#endif

/* The k-th element of each half of the lanes of `found`, 1 or 2 or 4 bytes each. */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define PLACE_BITS(bytes, k) (32 - 8 * (bytes) * ((k) + 1))
#else
#define PLACE_BITS(bytes, k) (8 * (bytes) * (k))
#endif
#define MASK(bytes) ((UINT64_C(0xffffffff) >> (32 - 8 * (bytes))) * UINT64_C(0x100000001))
#define OF_HALVES(found, bytes, k) (((found) >> PLACE_BITS(bytes, k)) & (MASK(bytes) - (Lanes64){0}))

typedef Lanes64 LooseLanes64 __attribute__((aligned(1), may_alias));
enum { DIGEST_LANES = WIDTH / sizeof(uint64_t) };

/* The mixes of the elements that are the k-th of their lane. `key` is that of the first. */
TARGET static inline Lanes64 mix_lanes(Lanes64 x, Lanes64 key, uint64_t k)
{
    return mix_round(mix_round(x ^ (key + (DIGEST_STEP * k - (Lanes64){0})))
                     ^ (DIGEST_CONSTANT - (Lanes64){0}));
}

#define ADD_WHOLE(found, key) sum += mix_lanes(found, key, 0);
#define ADD_HALVES(found, key, bytes)                                               \
    for (uint64_t k = 0; k < 4 / (bytes); k++) {                                    \
        const Lanes64 halves = (bytes) == 4 ? (found) : OF_HALVES(found, bytes, k); \
        sum += mix_lanes(DOUBLE_FIRST(halves), key, k);                             \
        sum += mix_lanes(DOUBLE_SECOND(halves), key, k + 4 / (bytes));              \
    }

#define DIGEST(bytes, ADD)                                                            \
    TARGET static uint64_t digest_##bytes(const char *data, size_t n, uint64_t index) \
    {                                                                                 \
        const size_t step = WIDTH / (bytes), whole = n - n % step;                    \
        Lanes64 key, sum = {0};                                                       \
        for (size_t j = 0; j < DIGEST_LANES; j++) {                                   \
            key[j] = (index + 1 + j * (8 / (bytes))) * DIGEST_STEP;                   \
        }                                                                             \
        for (size_t i = 0; i < whole; i += step) {                                    \
            const Lanes64 found = *(const LooseLanes64 *)(data + i * (bytes));        \
            ADD key += DIGEST_STEP * step - (Lanes64){0};                             \
        }                                                                             \
        for (size_t i = whole; i < n; i++) {                                          \
            const Lanes64 x = {element_of_##bytes(data + i * (bytes))};               \
            const Lanes64 of_index = {(index + 1 + i) * DIGEST_STEP};                 \
            sum[0] += mix_lanes(x, of_index, 0)[0];                                   \
        }                                                                             \
        uint64_t total = 0;                                                           \
        for (size_t j = 0; j < DIGEST_LANES; j++) {                                   \
            total += sum[j];                                                          \
        }                                                                             \
        return total;                                                                 \
    }
DIGEST(1, ADD_HALVES(found, key, 1))
DIGEST(2, ADD_HALVES(found, key, 2))
DIGEST(4, ADD_HALVES(found, key, 4))
DIGEST(8, ADD_WHOLE(found, key))

TARGET static uint64_t digest(const char *data, size_t n, size_t bytes, uint64_t index)
{
    return bytes == 1   ? digest_1(data, n, index)
           : bytes == 2 ? digest_2(data, n, index)
           : bytes == 4 ? digest_4(data, n, index)
                        : digest_8(data, n, index);
}

/* Add a part of a tensor, which begins `done` elements after the digest's own index. */
TARGET static inline void add_to_digest(Digest *sum, const char *data, size_t n, size_t bytes, size_t done)
{
    if (sum != NULL) {
        sum->sum += digest(data, n, bytes, sum->index + done);
    }
}
