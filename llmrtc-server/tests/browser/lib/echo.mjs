// What the echo model's answers say about what reached it.

/** How many earlier turns the answer says it remembers. */
export function turnsRemembered(answer) {
  const count = /remember (one|\d+) things? you said before/i.exec(answer)?.[1];
  if (count === undefined) return 0;
  return count === "one" ? 1 : Number(count);
}

/** Whether the answer mentions an image. */
export function mentionsImage(answer) {
  return /\bimages?\b|\bpictures?\b/i.test(answer);
}
