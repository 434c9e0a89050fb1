/* Copies of tensors, one after another in one buffer, until after the optimizer's step. */

#ifndef GRADSCOPE_PARAM_COPIES_H
#define GRADSCOPE_PARAM_COPIES_H

#include <stddef.h>
#include <stdint.h>

/* Precedes each copy, which is padded to a multiple of 8 bytes. A tensor without a copy has a header of zeros. */
typedef struct {
    uint64_t layout, size_bytes;
} CopyHeader;

/* A position in the buffer; `at` is NULL past the end. */
typedef struct {
    char *at, *end;
} CopyCursor;

/* Write a header and return where to write the copy. NULL if there is no room or `header` is NULL. */
char *reserve_copy(CopyCursor *cursor, const CopyHeader *header);

/* Return the next copy. NULL if there is none, if its layout differs, or if `header` is NULL. */
const char *find_copy(CopyCursor *cursor, const CopyHeader *header);

#endif
