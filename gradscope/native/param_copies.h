/* Copies of tensors, one after another in one stretch of memory, until after the optimizer's step. */

#ifndef GRADSCOPE_PARAM_COPIES_H
#define GRADSCOPE_PARAM_COPIES_H

#include <stddef.h>
#include <stdint.h>

/* Stands before each copy; what follows it is filled up to a multiple of 8. Of a tensor that is not kept
 * there is a heading of zeros alone. */
typedef struct {
    uint64_t layout, size_bytes;
} CopyHeader;

/* The place in the stretch; `at` is NULL past its end. */
typedef struct {
    char *at, *end;
} CopyCursor;

/* The place for a copy, behind its heading. NULL where there is no room, and where `heading` is NULL. */
char *reserve_copy(CopyCursor *cursor, const CopyHeader *header);

/* The copy that was kept in the same turn. NULL where there is none, where it is of another layout, and
 * where `heading` is NULL. */
const char *find_copy(CopyCursor *cursor, const CopyHeader *header);

#endif
