// The language of the page: which it is, and texts, times and durations in it.
//
// A text that stands in the page carries its key (`data-t`) and what is filled in (`data-t-args`), so
// that another language can be put in its place at any time. `data-t-label`, `data-t-placeholder` and
// `data-t-title` do the same for attributes.

import { recall, remember } from "./memory.js";
import { WORDS } from "./words.js";

const ATTRIBUTES = { "aria-label": "tLabel", placeholder: "tPlaceholder", title: "tTitle" };
const SELECTOR = "[data-t], [data-t-label], [data-t-placeholder], [data-t-title]";

let language = "en";
let plural = new Intl.PluralRules(language);

/** Fires `change` when the language has changed and the texts of the page with it. */
export const languages = new EventTarget();

/** Gives a text in the language of the page. */
export function t(key, args = {}) {
  const text = WORDS[language][key];
  const form = typeof text === "string" ? text : (text[plural.select(args.n)] ?? text.other);
  return form.replaceAll(/\{(\w+)\}/g, (_, name) => String(args[name]));
}

/** Tells whether there is such a text. */
export function knows(key) {
  return Object.hasOwn(WORDS[language], key);
}

/** The language of the page: `en`, `ru`. */
export function currentLanguage() {
  return language;
}

/** Writes a text, unless it stands there: writing it again would take a reader's selection away. */
export function write(element, text) {
  if (element.dataset.t !== undefined) {
    delete element.dataset.t;
    delete element.dataset.tArgs;
  }
  put(element, text);
}

function put(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function keep(element, name, key, args) {
  const json = JSON.stringify(args);
  if (element.dataset[name] !== key) {
    element.dataset[name] = key;
  }
  if (json === "{}") {
    delete element.dataset.tArgs;
  } else if (element.dataset.tArgs !== json) {
    element.dataset.tArgs = json;
  }
}

/** Writes the text of a key, which will follow the language. */
export function tell(element, key, args = {}) {
  keep(element, "t", key, args);
  put(element, t(key, args));
}

/** Gives an element an `aria-label` that will follow the language. */
export function label(element, key, args = {}) {
  keep(element, "tLabel", key, args);
  element.setAttribute("aria-label", t(key, args));
}

/** Puts the texts of the language into all elements of a tree that carry keys. */
export function translate(root) {
  for (const element of root.querySelectorAll(SELECTOR)) {
    const { t: key, tArgs } = element.dataset;
    const args = tArgs === undefined ? {} : JSON.parse(tArgs);
    if (key !== undefined) {
      put(element, t(key, args));
    }
    for (const [attribute, name] of Object.entries(ATTRIBUTES)) {
      if (element.dataset[name] !== undefined) {
        element.setAttribute(attribute, t(element.dataset[name], args));
      }
    }
  }
}

function take(wanted) {
  language = wanted;
  plural = new Intl.PluralRules(language);
  document.documentElement.lang = language;
  translate(document);
  for (const template of document.querySelectorAll("template")) {
    translate(template.content);
  }
}

/** Changes the language, and remembers it. */
export function speak(wanted) {
  remember("language", wanted);
  take(wanted);
  languages.dispatchEvent(new Event("change"));
}

/** Begins with the language that was chosen last, else with the first of the browser's that is here. */
export function beginLanguage() {
  const wanted = [recall("language"), ...navigator.languages.map((tag) => tag.split("-")[0])];
  take(wanted.find((tag) => Object.hasOwn(WORDS, tag ?? "")) ?? "en");
}

/** Gives the time of day, such as `14:03`, or `14:03:59`. */
export function timeOfDay(date, { seconds = false } = {}) {
  return new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, {
    hour: "2-digit",
    minute: "2-digit",
    second: seconds ? "2-digit" : undefined,
  }).format(date);
}

/** Gives a duration, such as `0:07` or `1:00:00`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0
    ? `${hours}:${two(minutes)}:${two(whole % 60)}`
    : `${minutes}:${two(whole % 60)}`;
}
