// The names of files: `npm test`.
import assert from 'node:assert/strict';
import test from 'node:test';

import { fileName, parse } from '../src/files.js';

const KEY = '0123456789abcdef'.repeat(2);

test('names are read back', () => {
  assert.deepEqual(parse(fileName(KEY, 17)), { key: KEY, number: 17, isTemporary: false });
  assert.deepEqual(parse(`${fileName(KEY, 0)}.tmp`), { key: KEY, number: 0, isTemporary: true });
});

test('files of others are left alone', () => {
  for (const name of ['', 'notes.txt', KEY, `${KEY}-`, `${KEY.slice(1)}-1`, `${KEY}-x`]) {
    assert.equal(parse(name), undefined, name);
  }
});
