"""The names of files: `make test`."""

import unittest

from files import File, parse


class FilesTest(unittest.TestCase):
    def test_names_are_read_back(self):
        for file in (File((1, 2**64 - 1), 17), File((0, 0), 0, is_temporary=True)):
            self.assertEqual(parse(file.name), file)

    def test_files_of_others_are_left_alone(self):
        key = "0123456789abcdef" * 2
        for name in ("", "notes.txt", key, f"{key}-", f"{key[1:]}-1", f"{key}-x", f"{key}-1\n"):
            self.assertIsNone(parse(name), name)


if __name__ == "__main__":
    unittest.main()
