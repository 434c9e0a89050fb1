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

enum { DIGEST_LANES = WIDTH / sizeof(uint64_t) };

#define DIGEST(bytes, type, LOAD_ELEMENTS)                                                               \
    TARGET static uint64_t digest_##bytes(const char *data, size_t n, uint64_t index)                    \
    {                                                                                                    \
        typedef type elements __attribute__((vector_size(DIGEST_LANES * bytes), aligned(1), may_alias)); \
        Lanes64 key, sum = {0};                                                                          \
        for (size_t j = 0; j < DIGEST_LANES; j++) {                                                      \
            key[j] = (index + 1 + j) * DIGEST_STEP;                                                      \
        }                                                                                                \
        const size_t whole = n - n % DIGEST_LANES;                                                       \
        for (size_t i = 0; i < whole; i += DIGEST_LANES) {                                               \
            const elements found = *(const elements *)(data + i * bytes);                                \
            const Lanes64 x = LOAD_ELEMENTS(found);                                                      \
            sum += mix_round(mix_round(x ^ key) ^ (DIGEST_CONSTANT - (Lanes64){0}));                     \
            key += DIGEST_STEP * DIGEST_LANES - (Lanes64){0};                                            \
        }                                                                                                \
        for (size_t i = whole; i < n; i++) {                                                             \
            Lanes64 x = {element_of_##bytes(data + i * bytes) ^ (index + 1 + i) * DIGEST_STEP};          \
            x = mix_round(mix_round(x) ^ (DIGEST_CONSTANT - (Lanes64){0}));                              \
            sum[0] += x[0];                                                                              \
        }                                                                                                \
        uint64_t total = 0;                                                                              \
        for (size_t j = 0; j < DIGEST_LANES; j++) {                                                      \
            total += sum[j];                                                                             \
        }                                                                                                \
        return total;                                                                                    \
    }
#define WIDENED(found) __builtin_convertvector(found, Lanes64)
#define DOUBLED(found) (WIDENED(found) | WIDENED(found) << 32)
#define UNCHANGED(found) ((Lanes64)(found))
DIGEST(1, uint8_t, DOUBLED)
DIGEST(2, uint16_t, DOUBLED)
DIGEST(4, uint32_t, DOUBLED)
DIGEST(8, uint64_t, UNCHANGED)

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
