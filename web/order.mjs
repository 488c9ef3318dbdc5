/**
 * The order of a wasm core's functions. gzip remembers the last 32 kB: a function is less to load where those that resemble it lie
 * just before it, 11 kB in all.
 */

const CUSTOM = 0;
const IMPORT = 2;
const CODE = 10;

/** What is alike between functions is counted in runs of so many bytes: about one instruction, and two. */
const RUNS = [4, 7];
/** Runs in more functions than these are everywhere, and say nothing. */
const COMMON = 600;
/** What gzip remembers, with a little room. */
const WINDOW = 28_000;
/** Large functions resemble everything: by this power of their size they must do so more. */
const SIZE_POWER = 0.7;

/** The core with a section of names: those of its functions are numbers in their places, for `--reorder-functions-by-name`. */
export function withPlaces(core) {
  const { imported, bodies } = functionsOf(core);
  const names = new Array(bodies.length);
  orderOf(bodies).forEach((index, place) => {
    names[index] = String(place).padStart(6, '0');
  });
  const entries = names.flatMap((name, i) => [...leb(imported + i), ...text(name)]);
  const map = [...leb(names.length), ...entries];
  const content = [...text('name'), 1, ...leb(map.length), ...map];
  return Buffer.concat([core, Buffer.from([CUSTOM, ...leb(content.length), ...content])]);
}

/** One after the other, the function that has the most in common with those just before it. */
function orderOf(bodies) {
  const { runs, holders } = commonRuns(bodies);
  // Runs that few have say more.
  const rarities = holders.map((indices) => 1 / Math.log(1 + indices.length));
  const seen = new Uint32Array(holders.length);
  const alike = new Float64Array(bodies.length);
  const weights = bodies.map((body) => body.length ** -SIZE_POWER);
  const count = (index, by) => {
    for (const run of runs[index]) {
      const [was, is] = [seen[run], seen[run] + by];
      seen[run] = is;
      if (was > 0 !== is > 0) for (const holder of holders[run]) alike[holder] += by * rarities[run];
    }
  };
  const left = new Set(bodies.keys());
  const order = [];
  let [first, bytes] = [0, 0];
  while (left.size > 0) {
    let [best, most] = [0, -1];
    for (const index of left) {
      if (alike[index] * weights[index] > most) [best, most] = [index, alike[index] * weights[index]];
    }
    left.delete(best);
    order.push(best);
    count(best, 1);
    bytes += bodies[best].length;
    for (; bytes > WINDOW && first < order.length - 1; first++) {
      count(order[first], -1);
      bytes -= bodies[order[first]].length;
    }
  }
  return order;
}

/** The runs of each function that others have too, as numbers, and who has them. */
function commonRuns(bodies) {
  const holders = RUNS.flatMap((length) => [...holdersOf(bodies, length).values()]).filter(
    (indices) => indices.length > 1 && indices.length <= COMMON,
  );
  const runs = bodies.map(() => []);
  holders.forEach((indices, run) => {
    for (const index of indices) runs[index].push(run);
  });
  return { runs, holders };
}

/** Which functions have a run of that length in them. */
function holdersOf(bodies, length) {
  const holders = new Map();
  bodies.forEach((body, index) => {
    for (let i = 0; i + length <= body.length; i++) {
      const run = body.latin1Slice(i, i + length);
      const indices = holders.get(run);
      if (indices === undefined) holders.set(run, [index]);
      else if (indices.at(-1) !== index) indices.push(index);
    }
  });
  return holders;
}

/** The bodies of the functions that a module defines, and how many it imports. */
function functionsOf(core) {
  let at = 8; // the magic number and the version
  const number = () => {
    let [value, shift] = [0, 0];
    for (;;) {
      const byte = core[at++];
      value += (byte & 127) * 2 ** shift;
      shift += 7;
      if (byte < 128) return value;
    }
  };
  const skip = (bytes) => {
    at += bytes;
  };
  let imported = 0;
  const bodies = [];
  while (at < core.length) {
    const section = core[at++];
    const end = number() + at;
    if (section === IMPORT) {
      for (let left = number(); left > 0; left--) {
        skip(number()); // module
        skip(number()); // name
        const kind = core[at++];
        if (kind === 0) {
          imported += 1;
          number();
        } else if (kind === 2) {
          // Memory: whether it has a maximum, and is shared.
          const flags = number();
          number();
          if ((flags & 1) === 1) number();
        } else throw new Error(`the core imports something of kind ${kind}`);
      }
    } else if (section === CODE) {
      for (let left = number(); left > 0; left--) {
        const size = number();
        bodies.push(core.subarray(at, at + size));
        skip(size);
      }
    }
    at = end;
  }
  return { imported, bodies };
}

function leb(value) {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >>> 7)];
}

function text(words) {
  return [...leb(words.length), ...Buffer.from(words)];
}
