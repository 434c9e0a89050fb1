/* Copies of tensors, one after another in one stretch of memory, until after the optimizer's step. */

#ifndef GRADSCOPE_KEPT_H
#define GRADSCOPE_KEPT_H

#include <stddef.h>
#include <stdint.h>

/* Stands before each copy; what follows it is filled up to a multiple of 8. Of a tensor that is not kept
 * there is a heading of zeros alone. */
typedef struct {
    uint64_t layout, size_bytes;
} Heading;

/* The place in the stretch; `at` is NULL past its end. */
typedef struct {
    char *at, *end;
} Cursor;

/* The place for a copy, behind its heading. NULL where there is no room, and where `heading` is NULL. */
char *keep(Cursor *cursor, const Heading *heading);

/* The copy that was kept in the same turn. NULL where there is none, where it is of another layout, and
 * where `heading` is NULL. */
const char *find_kept(Cursor *cursor, const Heading *heading);

#endif
