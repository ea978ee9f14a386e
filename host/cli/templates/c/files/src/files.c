#include "files.h"

#include <string.h>

#define KEY_DIGITS 32
#define NUMBER_DIGITS_MAX 18

static char *write_hex(char *to, uint64_t n) {
  for (int shift = 60; shift >= 0; shift -= 4) *to++ = "0123456789abcdef"[n >> shift & 15];
  return to;
}

static char *write_decimal(char *to, uint64_t n) {
  if (n >= 10) to = write_decimal(to, n / 10);
  *to++ = '0' + n % 10;
  return to;
}

void file_name(char *to, lru_key key, uint64_t number, const char *ending) {
  to = write_hex(write_hex(to, key.hi), key.lo);
  *to++ = '-';
  strcpy(write_decimal(to, number), ending);
}

// Reads 16 lower-case hexadecimal digits.
static bool read_hex(const char *from, uint64_t *n) {
  *n = 0;
  for (int i = 0; i < KEY_DIGITS / 2; i++) {
    bool is_digit = from[i] >= '0' && from[i] <= '9';
    if (!is_digit && !(from[i] >= 'a' && from[i] <= 'f')) return false;
    *n = *n << 4 | (uint64_t)(is_digit ? from[i] - '0' : from[i] - 'a' + 10);
  }
  return true;
}

bool file_parse(const char *name, size_t len, lru_key *key, uint64_t *number, bool *is_temporary) {
  size_t ending = strlen(TEMPORARY);
  *is_temporary = len > ending && !memcmp(name + len - ending, TEMPORARY, ending);
  if (*is_temporary) len -= ending;
  if (len < KEY_DIGITS + 2 || len > KEY_DIGITS + 1 + NUMBER_DIGITS_MAX) return false;
  if (!read_hex(name, &key->hi) || !read_hex(name + KEY_DIGITS / 2, &key->lo)) return false;
  if (name[KEY_DIGITS] != '-') return false;
  *number = 0;
  for (size_t i = KEY_DIGITS + 1; i < len; i++) {
    if (name[i] < '0' || name[i] > '9') return false;
    *number = *number * 10 + (uint64_t)(name[i] - '0');
  }
  return true;
}
