// The recordings: the speech fixture with silence around it.

import { readFile, writeFile } from "node:fs/promises";

/** Reads a mono 16-bit PCM WAV file. */
export async function readWav(path) {
  const bytes = await readFile(path);
  if (bytes.toString("latin1", 0, 4) !== "RIFF" || bytes.toString("latin1", 8, 12) !== "WAVE") {
    throw new Error(`${path} is not a WAV file`);
  }
  let rate;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const id = bytes.toString("latin1", at, at + 4);
    const size = bytes.readUInt32LE(at + 4);
    const body = bytes.subarray(at + 8, at + 8 + size);
    if (id === "fmt ") {
      rate = body.readUInt32LE(4);
      if (body.readUInt16LE(2) !== 1 || body.readUInt16LE(14) !== 16) throw new Error(`${path} is not mono 16-bit`);
    }
    if (id === "data") return { rate, pcm: body };
    // Chunks are padded to an even length.
    at += 8 + size + (size % 2);
  }
  throw new Error(`${path} has no data`);
}

/** Writes `pcm` with silence before and after it. Chromium's fake microphone plays a file in a loop. */
export async function writeWav(path, { rate, pcm }, { secondsBefore, secondsAfter }) {
  const silence = (seconds) => Buffer.alloc(2 * Math.round(seconds * rate));
  const data = Buffer.concat([silence(secondsBefore), pcm, silence(secondsAfter)]);
  const head = Buffer.alloc(44);
  head.write("RIFF", 0, "latin1");
  head.writeUInt32LE(36 + data.length, 4);
  head.write("WAVEfmt ", 8, "latin1");
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20); // PCM
  head.writeUInt16LE(1, 22); // channels
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE(rate * 2, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write("data", 36, "latin1");
  head.writeUInt32LE(data.length, 40);
  await writeFile(path, Buffer.concat([head, data]));
}
