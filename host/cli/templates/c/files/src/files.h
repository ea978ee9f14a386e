// Names of files: the key, and a number that no other file of the directory has, so that a file that stayed behind is
// never taken for the one that a later put of the same key wrote. It knows nothing of components: test it natively.
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lru.h"

#define TEMPORARY ".tmp"
// 32 hexadecimal digits, `-`, up to 20 decimal digits, `.tmp`, and the end.
#define FILE_NAME_BYTES 64

// Writes the name of a chunk's file, with an ending, to a buffer of FILE_NAME_BYTES.
void file_name(char *to, lru_key key, uint64_t number, const char *ending);

// Reads a name of `len` bytes. Returns false for the file of someone else.
bool file_parse(const char *name, size_t len, lru_key *key, uint64_t *number, bool *is_temporary);

#endif
