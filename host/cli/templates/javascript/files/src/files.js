// Names of files: the key, and a number that no other file of the directory has. A file that is being removed is
// therefore never the one that a later put of the same key writes.

const NAME = /^([0-9a-f]{32})-([0-9]{1,15})(\.tmp)?$/;

/** Returns the name of a chunk's file. */
export function fileName(key, number) {
  return `${key}-${number}`;
}

/** Returns what a name stands for, or undefined for the file of someone else. */
export function parse(name) {
  const match = NAME.exec(name);
  if (match === null) return undefined;
  const [, key, number, temporary] = match;
  return { key, number: Number(number), isTemporary: temporary !== undefined };
}
