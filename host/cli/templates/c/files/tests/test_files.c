// The names of files: `make test`.
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "files.h"

static void names_are_read_back(void) {
  char name[FILE_NAME_BYTES];
  lru_key key = {0x0123456789abcdef, UINT64_MAX}, found;
  uint64_t number;
  bool is_temporary;
  file_name(name, key, 17, "");
  assert(!strcmp(name, "0123456789abcdefffffffffffffffff-17"));
  assert(file_parse(name, strlen(name), &found, &number, &is_temporary));
  assert(found.hi == key.hi && found.lo == key.lo && number == 17 && !is_temporary);
  file_name(name, key, 0, TEMPORARY);
  assert(file_parse(name, strlen(name), &found, &number, &is_temporary) && number == 0 && is_temporary);
}

static void files_of_others_are_left_alone(void) {
  const char *names[] = {"", "notes.txt", ".tmp", "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef-",
                         "123456789abcdef0123456789abcdef-1", "0123456789abcdef0123456789abcdef-x"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    lru_key key;
    uint64_t number;
    bool is_temporary;
    assert(!file_parse(names[i], strlen(names[i]), &key, &number, &is_temporary));
  }
}

int main(void) {
  names_are_read_back();
  files_of_others_are_left_alone();
  puts("2 tests passed");
  return 0;
}
