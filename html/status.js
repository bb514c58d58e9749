// How the connection is: a chip in the bar, and a line below it when there is something to know.

import { $, errorText, mark } from "./dom.js";
import { languages, t, tell, timeOfDay, write } from "./language.js";

/** States of the stream in which nothing comes. */
const SILENT = new Set(["reconnecting", "offline", "not-monitored", "refused"]);

export class Status {
  #state = "connecting";
  #retryAt = null;
  #error = null;
  #mxDown = false;
  #endsAt = null;
  #silentSince = null;
  #timer;

  constructor() {
    languages.addEventListener("change", () => this.#draw());
  }

  begin(session, stream) {
    this.#state = stream.state;
    this.#retryAt = this.#error = this.#endsAt = this.#silentSince = null;
    this.#mxDown = false;
    stream.addEventListener("state", ({ detail: { state, retryAt, error } }) => {
      this.#silentSince = SILENT.has(state) ? (this.#silentSince ?? new Date()) : null;
      this.#state = state;
      this.#retryAt = retryAt ?? null;
      this.#error = error ?? null;
      this.#draw();
    });
    stream.addEventListener("status", ({ detail }) => {
      this.#mxDown = detail.mx === "down";
      this.#draw();
    });
    session.addEventListener("ending", ({ detail }) => {
      this.#endsAt = new Date(detail.at);
      this.#draw();
    });
    session.addEventListener("renewed", () => {
      this.#endsAt = null;
      this.#draw();
    });
    this.#timer = setInterval(() => this.#drawChip(), 1000);
    this.#draw();
  }

  end() {
    clearInterval(this.#timer);
    $("banner").hidden = true;
  }

  /** What matters most of all that is so. */
  get #word() {
    if (this.#state !== "live") {
      return this.#state;
    }
    return this.#mxDown ? "mx-down" : this.#endsAt ? "ending" : "live";
  }

  #drawChip() {
    const word = this.#word;
    const seconds = Math.ceil((this.#retryAt - Date.now()) / 1000);
    const counts = word === "reconnecting" && this.#retryAt !== null && seconds > 0;
    mark($("chip"), "state", word);
    const time = this.#endsAt === null ? "" : timeOfDay(this.#endsAt);
    tell($("chip-text"), counts ? "chip-reconnecting-in" : `chip-${word}`, { seconds, time });
  }

  #draw() {
    this.#drawChip();
    const word = this.#word;
    const time = word === "ending" ? timeOfDay(this.#endsAt) : timeOfDay(this.#silentSince ?? new Date(), { seconds: true });
    const reason = this.#error === null ? "" : errorText(this.#error);
    const ended = word === "ended" && this.#error === null;
    const calm = word === "live" || word === "connecting" || ended;
    const text = calm ? "" : t(`banner-${word}`, { time, reason });
    $("banner").hidden = calm;
    mark($("banner"), "state", word);
    write($("banner-text"), text);
    $("banner-button").hidden = word !== "not-monitored" && word !== "ending";
    // The countdown of the chip is for the eyes alone: nobody wants to hear it.
    write($("connection"), calm ? t(`chip-${word}`) : text);
  }
}
