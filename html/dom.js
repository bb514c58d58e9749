// Small things that every part of the page needs.

import { Abandoned, Refused, Unreachable } from "./mxflex.js";
import { t } from "./language.js";

export const $ = (id) => document.getElementById(id);

/** Gives a new copy of a template's only element. */
export function copyOf(template) {
  return $(template).content.firstElementChild.cloneNode(true);
}

/** Makes an element with classes and children; texts become text. */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** Sets what decides on the look; setting the same again costs nothing. */
export function mark(element, name, value) {
  if (element.dataset[name] !== value) {
    element.dataset[name] = value;
  }
}

/** Makes the items of a list those given, in their order; those that stay keep the focus. */
export function arrange(list, items) {
  const focused = document.activeElement;
  let place = list.firstElementChild;
  const wanted = new Set(items);
  for (const item of [...list.children]) {
    if (!wanted.has(item)) {
      if (item === place) {
        place = place.nextElementSibling;
      }
      item.remove();
    }
  }
  for (const item of items) {
    if (item === place) {
      place = place.nextElementSibling;
    } else {
      list.insertBefore(item, place);
    }
  }
  // Who is moved loses it.
  if (focused !== document.activeElement && list.contains(focused)) {
    focused.focus();
  }
}

/** Makes a function that does one thing at a time; asked meanwhile, it does it once more. */
export function inTurn(action) {
  let busy = false;
  let again = false;
  return async () => {
    again = true;
    if (busy) {
      return;
    }
    busy = true;
    try {
      while (again) {
        again = false;
        await action();
      }
    } finally {
      busy = false;
    }
  };
}

/** Gives what to say of an error, in the language of the page. */
export function errorText(error) {
  if (error instanceof Unreachable) {
    return t("unreachable");
  }
  switch (error.status) {
    case 403:
      return t("not-yours", { text: error.message });
    case 422:
      return t("mx-refuses", { text: error.message });
    case 429:
      return tooMany(error.retryAfter);
    case 503:
      return t("mx-away");
    case 504:
      return t("mx-silent");
    default:
      return t("says-no", { text: error.message });
  }
}

function tooMany(seconds) {
  if (!(seconds > 0)) {
    return t("too-many-now");
  }
  return seconds < 120
    ? t("too-many", { seconds: Math.ceil(seconds) })
    : t("too-many-minutes", { minutes: Math.ceil(seconds / 60) });
}

/** Gives the place for errors inside an element, the last in it; makes it where there is none. */
export function errorIn(element) {
  const there = element.querySelector(":scope > .error");
  if (there !== null) {
    return there;
  }
  const made = make("p", "error");
  made.setAttribute("role", "alert");
  element.append(made);
  return made;
}

/**
 * Does something with the server; what goes wrong is told inside an element. Tells whether it went.
 *
 * `words` gives the text for an error, if it is not the usual one.
 */
export async function attempt(place, action, words = errorText) {
  try {
    await action();
    place.querySelector(":scope > .error")?.replaceChildren();
    return true;
  } catch (error) {
    if (error instanceof Abandoned) {
      return false;
    }
    if (!(error instanceof Refused || error instanceof Unreachable)) {
      throw error;
    }
    errorIn(place).textContent = words(error);
    return false;
  }
}

/** Does what a button says, unless it is doing so already. A disabled one would lose the focus. */
export async function press(button, place, action, words = errorText) {
  if (button.getAttribute("aria-disabled") === "true") {
    return false;
  }
  button.setAttribute("aria-disabled", "true");
  try {
    return await attempt(place, action, words);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}
