// What can be heard: the microphone, the meters, and what to say when there is no microphone.

/** Comfort noise stays far below this, speech far above. */
const AUDIBLE = 0.01;
/** Speech is that much louder than the room. */
const ABOVE_ROOM = 3;
/** How much the idea of the room's loudness rises with each look, so that a room that becomes louder is believed. */
const ROOM_RISE = 1.005;
/** Between two looks at a meter. */
export const LOOK_MS = 20;

/** How loud a stream is, and when a voice was last in it. */
export class Meter {
  #analyser;
  #samples;
  #room = AUDIBLE;
  /** From 0 to 1, at the last look. */
  loudness = 0;
  /** `performance.now()` of the last look that found a voice. */
  lastVoice;

  constructor(context, stream) {
    this.#analyser = context.createAnalyser();
    // About as long as the time between two looks, so that nothing falls between them.
    this.#analyser.fftSize = 1024;
    this.#samples = new Float32Array(this.#analyser.fftSize);
    context.createMediaStreamSource(stream).connect(this.#analyser);
  }

  /** Looks, and says whether there is a voice. */
  look(now) {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const energy = this.#samples.reduce((sum, sample) => sum + sample * sample, 0);
    this.loudness = Math.sqrt(energy / this.#samples.length);
    this.#room = Math.min(this.#room * ROOM_RISE, Math.max(this.loudness, AUDIBLE / ABOVE_ROOM));
    const heard = this.loudness > Math.max(AUDIBLE, this.#room * ABOVE_ROOM);
    if (heard) this.lastVoice = now;
    return heard;
  }

  /** Loudness for a display, from 0 to 1. Square root: it is closer to what people expect than amplitude is. */
  get level() {
    return Math.min(1, Math.sqrt(this.loudness * 2));
  }
}

/** Asks for the microphone. Throws a `DOMException`, or an error without a name that is worth showing. */
export function openMicrophone() {
  return navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
}

/** Why this page cannot even ask for a microphone, if that is so. */
export function cannotAsk() {
  if (navigator.mediaDevices?.getUserMedia) return undefined;
  return isSecureContext
    ? "This browser cannot record."
    : "Browsers give a microphone only to pages from https:// or from this machine (localhost).";
}

/** Why the microphone cannot be used, in words. */
export function microphoneProblem(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The browser was not allowed to use the microphone. Allow it in the site settings, beside the address.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone was found. Connect one, then press “Try the microphone again”.";
    case "NotReadableError":
    case "AbortError":
      return "The microphone could not be opened. Another program may be using it.";
    default:
      return `The microphone could not be opened (${error.name}).`;
  }
}
