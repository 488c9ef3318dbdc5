/** The fields that src/types.ts promises, read from its text, and the comparison of what is really sent with them. */

import { readFileSync } from 'node:fs';

const source = readFileSync(new URL('../src/types.ts', import.meta.url), 'utf8').replace(/\/\*[\s\S]*?\*\//g, '');

/** `{ name: { type, optional } }` of an interface. */
export function fieldsOf(name) {
  const body = new RegExp(`export interface ${name} \\{([\\s\\S]*?)\\n\\}`).exec(source)?.[1];
  if (body === undefined) throw new Error(`src/types.ts has no interface ${name}`);
  return parse(body);
}

/** The fields between the braces of an object type. */
function parse(body) {
  const fields = {};
  let depth = 0;
  let field = '';
  for (const character of body) {
    if ('{[('.includes(character)) depth++;
    if ('}])'.includes(character)) depth--;
    if (character !== ';' || depth > 0) {
      field += character;
      continue;
    }
    if (field.trim() === '') continue;
    const [, name, optional, type] = /^\s*(\w+)(\??):\s*([\s\S]*?)\s*$/.exec(field);
    fields[name] = { optional: optional === '?', type };
    field = '';
  }
  return fields;
}

/** What is wrong with a value of a type; `seen` collects the fields that were there. */
export function mismatches(value, type, path, seen) {
  const alternatives = split(type);
  if (alternatives.length > 1) {
    const found = alternatives.map((one) => mismatches(value, one, path, seen));
    return found.some((one) => one.length === 0) ? [] : found.toSorted((a, b) => b[0].length - a[0].length)[0];
  }
  if (type.endsWith('[]')) {
    if (!Array.isArray(value)) return [`${path} is no array`];
    return value.flatMap((item) => mismatches(item, type.slice(0, -2), `${path}[]`, seen));
  }
  if (type.startsWith('[')) return Array.isArray(value) ? [] : [`${path} is no array`];
  if (/^'.*'$/.test(type))
    return value === type.slice(1, -1) ? [] : [`${path} is ${JSON.stringify(value)}, not ${type}`];
  if (['null', 'undefined'].includes(type)) return String(value) === type ? [] : [`${path} is not ${type}`];
  if (['string', 'number', 'boolean'].includes(type)) {
    return typeof value === type ? [] : [`${path} is ${JSON.stringify(value)}, not a ${type}`];
  }
  const values = /^Record<string, (.*)>$/.exec(type)?.[1];
  if (values) {
    if (typeof value !== 'object' || value === null) return [`${path} is ${JSON.stringify(value)}`];
    return Object.values(value).flatMap((one) => mismatches(one, values, `${path}.*`, seen));
  }
  const alias = new RegExp(`export type ${type} =([^;]*);`).exec(source)?.[1];
  if (alias) return mismatches(value, alias.trim(), path, seen);
  if (type.startsWith('{')) return compare(value, parse(`${type.slice(1, -1).trim()};`), path, seen);
  if (source.includes(`export interface ${type} {`)) return compare(value, fieldsOf(type), type, seen);
  // The platform's own, such as ImageData: it came over as a mark with its name.
  return value === type ? [] : [`${path} is ${JSON.stringify(value)}, not ${type}`];
}

function compare(value, fields, path, seen) {
  if (typeof value !== 'object' || value === null) return [`${path} is ${JSON.stringify(value)}`];
  const wrong = Object.keys(value)
    .filter((name) => !(name in fields))
    .map((name) => `${path}.${name} is sent and not in types.ts`);
  for (const [name, { type, optional }] of Object.entries(fields)) {
    if (value[name] !== undefined) {
      seen.add(`${path}.${name}`);
      wrong.push(...mismatches(value[name], type, `${path}.${name}`, seen));
    } else {
      if (!optional) wrong.push(`${path}.${name} is promised and not sent`);
      if (!seen.has(`${path}.${name}`)) seen.add(`absent ${path}.${name}`);
    }
  }
  return wrong;
}

/** The alternatives of a union at the top level. */
function split(type) {
  const parts = [''];
  let depth = 0;
  for (const character of type) {
    if ('{[(<'.includes(character)) depth++;
    if ('}])>'.includes(character)) depth--;
    if (character === '|' && depth === 0) parts.push('');
    else parts[parts.length - 1] += character;
  }
  return parts.map((part) => part.trim()).filter((part) => part !== '');
}
