#include "param_copies.h"

#include <string.h>

static size_t bytes_left(const CopyCursor *cursor)
{
    return cursor->at == NULL ? 0 : (size_t)(cursor->end - cursor->at);
}

/* The bytes of a header and its copy; 0 if fewer bytes are left. */
static size_t size_of_copy(const CopyHeader *header, size_t left)
{
    if (left < sizeof *header || header->size_bytes > left - sizeof *header) {
        return 0;
    }
    const size_t size = sizeof *header + (header->size_bytes + 7) / 8 * 8;
    return size <= left ? size : 0;
}

char *reserve_copy(CopyCursor *cursor, const CopyHeader *header)
{
    static const CopyHeader none = {0, 0};
    const size_t left = bytes_left(cursor);
    const int has_room = header != NULL && size_of_copy(header, left) > 0;
    const CopyHeader *written = has_room ? header : &none;
    if (left < sizeof none) {
        cursor->at = NULL;
        return NULL;
    }
    char *copy = cursor->at + sizeof none;
    memcpy(cursor->at, written, sizeof none);
    cursor->at += size_of_copy(written, left);
    return has_room ? copy : NULL;
}

const char *find_copy(CopyCursor *cursor, const CopyHeader *header)
{
    CopyHeader found;
    const size_t left = bytes_left(cursor);
    if (left < sizeof found) {
        cursor->at = NULL;
        return NULL;
    }
    memcpy(&found, cursor->at, sizeof found);
    const char *copy = cursor->at + sizeof found;
    const size_t size = size_of_copy(&found, left);
    cursor->at = size == 0 ? NULL : cursor->at + size;
    return size > 0 && header != NULL && memcmp(&found, header, sizeof found) == 0 ? copy : NULL;
}
