"use strict";

/** WS of an entry; null if a part that counts is missing. */
function score(entry, weights) {
  let total = 0;
  for (const [part, weight] of [["A", weights.accuracy], ["CR", weights.compression], ["IS", weights.speed]]) {
    if (weight === 0) continue;
    if (entry[part] === null) return null;
    total += weight * entry[part];
  }
  return total;
}

const LIMITS = {
  megabytes: {
    value: (entry) => entry.bytes === null ? null : entry.bytes / 1e6,
    meets: (value, limit) => value <= limit,
    text: (limit) => `at most ${limit} MB`,
    nearest: (values) => `the smallest has ${digits(Math.min(...values))} MB`,
  },
  retained: {
    value: (entry) => entry.retained === null ? null : entry.retained * 100,
    meets: (value, limit) => value >= limit - 1e-9,
    text: (limit) => `at least ${limit} % of the quality kept`,
    nearest: (values) => `the best keeps ${digits(Math.max(...values))} %`,
  },
  milliseconds: {
    value: (entry) => entry.p50,
    meets: (value, limit) => value <= limit,
    text: (limit) => `at most ${limit} ms`,
    nearest: (values) => `the fastest takes ${digits(Math.min(...values))} ms`,
  },
};

function digits(value) {
  return String(Number(value.toPrecision(4)));
}

/** Whether an entry meets one limit; what was not measured meets none. */
function meets(entry, name, limit) {
  const value = LIMITS[name].value(entry);
  return value !== null && LIMITS[name].meets(value, limit);
}

/**
 * The run with the best WS among those within all limits: {index}, or {reason} that says which limit excludes all.
 * Equal scores: the better quality, then the smaller artifact, then the earlier entry.
 */
function choose(entries, limits, weights) {
  const runs = entries.map((entry, index) => ({entry, index})).filter(({entry}) => !entry.dense);
  if (!runs.length) return {reason: "There is no run to choose from."};
  const given = Object.keys(LIMITS).filter((name) => limits[name] !== null && limits[name] !== undefined);
  const within = (names) => runs.filter(({entry}) => names.every((name) => meets(entry, name, limits[name])));
  const left = within(given);
  if (left.length) {
    const low = (value) => value === null ? -Infinity : value;
    left.sort((one, other) => low(score(other.entry, weights)) - low(score(one.entry, weights))
      || low(other.entry.retained) - low(one.entry.retained)
      || (one.entry.bytes ?? Infinity) - (other.entry.bytes ?? Infinity)
      || one.index - other.index);
    return {index: left[0].index, among: left.length};
  }
  const impossible = given.filter((name) => !within([name]).length);
  if (impossible.length) {
    return {reason: impossible.map((name) => {
      const values = runs.map(({entry}) => LIMITS[name].value(entry)).filter((value) => value !== null);
      const nearest = values.length ? LIMITS[name].nearest(values) : "it was measured for none";
      return `“${LIMITS[name].text(limits[name])}” excludes all runs: ${nearest}.`;
    }).join(" ")};
  }
  const without = given.map((name) => [name, within(given.filter((other) => other !== name)).length]);
  const helps = without.filter(([, count]) => count).map(([name, count]) =>
    `without “${LIMITS[name].text(limits[name])}” there ${count === 1 ? "is 1 run" : `are ${count} runs`}`);
  const rest = helps.length ? helps.join(", ") : "no two of them can be met together";
  return {reason: `Each limit can be met, but not all together: ${rest}.`};
}
