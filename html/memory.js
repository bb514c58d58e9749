// What the page remembers: the session for as long as the tab lives, and choices for ever.

const PREFIX = "mxflex.";

// A browser may forbid all storage. Then everything ends with the page.
function quietly(action) {
  try {
    return action() ?? null;
  } catch {
    return null;
  }
}

/** Gives a choice of the person; null when there is none. */
export function recall(name) {
  return quietly(() => localStorage.getItem(PREFIX + name));
}

export function remember(name, value) {
  quietly(() => localStorage.setItem(PREFIX + name, value));
}

/** Gives what `keepSession` has kept; null when nobody is signed in. No other tab sees it. */
export function keptSession() {
  return quietly(() => sessionStorage.getItem(`${PREFIX}session`));
}

export function keepSession(saved) {
  quietly(() => sessionStorage.setItem(`${PREFIX}session`, saved));
}

export function forgetSession() {
  quietly(() => sessionStorage.removeItem(`${PREFIX}session`));
}
