// Chromium with a microphone that plays a file.

import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=no-user-gesture-required",
  "--use-fake-device-for-media-stream",
  // Nothing leaves this machine, and no lookup waits for a resolver: the client's built-in STUN server fails at once.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
];

/** `microphone`: a WAV file, played in a loop. `permitted`: whether pages get microphone and camera without asking. */
export function launch({ executablePath, microphone, permitted = true }) {
  const args = [...FLAGS, `--use-file-for-fake-audio-capture=${microphone}`];
  if (permitted) args.push("--use-fake-ui-for-media-stream");
  return chromium.launch({ executablePath, headless: true, args });
}
