#include "kept.h"

#include <string.h>

static size_t left_of(const Cursor *cursor)
{
    return cursor->at == NULL ? 0 : (size_t)(cursor->end - cursor->at);
}

/* The bytes of a heading and its copy; 0 where they are more than there are bytes left. */
static size_t room_of(const Heading *heading, size_t left)
{
    if (left < sizeof *heading || heading->size_bytes > left - sizeof *heading) {
        return 0;
    }
    const size_t room = sizeof *heading + (heading->size_bytes + 7) / 8 * 8;
    return room <= left ? room : 0;
}

char *keep(Cursor *cursor, const Heading *heading)
{
    static const Heading none = {0, 0};
    const size_t left = left_of(cursor);
    const int has_room = heading != NULL && room_of(heading, left) > 0;
    const Heading *written = has_room ? heading : &none;
    if (left < sizeof none) {
        cursor->at = NULL;
        return NULL;
    }
    char *copy = cursor->at + sizeof none;
    memcpy(cursor->at, written, sizeof none);
    cursor->at += room_of(written, left);
    return has_room ? copy : NULL;
}

const char *find_kept(Cursor *cursor, const Heading *heading)
{
    Heading found;
    const size_t left = left_of(cursor);
    if (left < sizeof found) {
        cursor->at = NULL;
        return NULL;
    }
    memcpy(&found, cursor->at, sizeof found);
    const char *copy = cursor->at + sizeof found;
    const size_t room = room_of(&found, left);
    cursor->at = room == 0 ? NULL : cursor->at + room;
    return room > 0 && heading != NULL && memcmp(&found, heading, sizeof found) == 0 ? copy : NULL;
}
