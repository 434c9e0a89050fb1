/* How often each binary exponent occurs among elements of one type, for one processor. Included by pass.h
 * with NUMBER (the type's name), BITS (the unsigned integer of its size), INFINITE and MAGNITUDE (bits) and
 * FRACTION (how many bits lie below the exponent) and LEAST (the exponent, as stored, of the first bin). */

#define TYPED(name) GLUE(GLUE(name, NUMBER), PASS)

typedef BITS __attribute__((aligned(1), may_alias)) TYPED(loose_bits);

/* Add n elements, at most TALLY_BLOCK. Bins are found for all of them first, in vectors; then one after
 * another is added to, in as many tables by turns: an addition need not wait for the one before it, though
 * it goes to the same bin. */
TARGET static void TYPED(tally)(const char *data, size_t n, BITS least_normal, Tally *tally, Record *out)
{
    const TYPED(loose_bits) *x = (const TYPED(loose_bits) *)data;
    uint8_t bin[TALLY_BLOCK];
    BITS zero = 0, small = 0; /* never more than a block has */
    for (size_t i = 0; i < n; i++) {
        const BITS magnitude = x[i] & MAGNITUDE, stored = magnitude >> FRACTION;
        const BITS above = stored < LEAST ? LEAST : stored;
        const BITS k = above - LEAST < BINS / 2 ? above - LEAST : BINS / 2 - 1;
        const BITS is_number = (BITS)-((magnitude != 0) & (magnitude < INFINITE));
        const BITS half = x[i] == magnitude ? 0 : BINS / 2;
        bin[i] = (uint8_t)(((k + half) & is_number) | (NO_BIN & ~is_number));
        zero += magnitude == 0;
        small += magnitude < least_normal;
    }
    out->zero += (double)zero;
    out->subnormal += (double)(small - zero);
    size_t i = 0;
    for (; i + TALLY_TABLES <= n; i += TALLY_TABLES) {
        for (int k = 0; k < TALLY_TABLES; k++) {
            tally->tables[k][bin[i + k]]++;
        }
    }
    for (; i < n; i++) {
        tally->tables[0][bin[i]]++;
    }
}

#undef TYPED
#undef NUMBER
#undef BITS
#undef INFINITE
#undef MAGNITUDE
#undef FRACTION
#undef LEAST
