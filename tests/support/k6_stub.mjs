// A stand-in for what demo/quickstart/k6_load.js uses of k6: node k6_stub.mjs SCRIPT BASE_URL TURNS.
//
// It runs the default function so many times, one after the other, with real requests, and prints
// as JSON what was checked and counted. Header names are written as k6 (Go) writes them.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, copyFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [script, baseUrl, turns] = process.argv.slice(2);
const seen = { checks: {}, counters: {}, urls: {}, slept: 0, expected: [] };

function canonical(name) {
  return name.toLowerCase().replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase());
}

// k6 waits for an answer where Node would go on; curl in a separate process does the same.
function request(url, ...options) {
  const output = execFileSync('curl', ['-si', ...options, url], { encoding: 'utf8' });
  const [head, ...body] = output.split('\r\n\r\n');
  const [first, ...lines] = head.split('\r\n');
  seen.urls[url] = (seen.urls[url] || 0) + 1;
  const pairs = lines.map((line) => line.split(/: (.*)/, 2));
  const headers = Object.fromEntries(pairs.map(([name, value]) => [canonical(name), value]));
  return { status: Number(first.split(' ')[1]), headers, body: body.join('\r\n\r\n') };
}

globalThis.__ENV = { BASE_URL: baseUrl };
globalThis.__VU = 1;
globalThis.k6Stub = {
  http: {
    get: (url) => request(url),
    post(url, body, { headers }) {
      const given = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]);
      return request(url, '-X', 'POST', '-d', body, ...given);
    },
    expectedStatuses: (...statuses) => statuses,
    setResponseCallback(statuses) {
      seen.expected = statuses;
    },
  },
  check(answer, conditions) {
    for (const [name, holds] of Object.entries(conditions)) {
      const counts = (seen.checks[name] ||= { passed: 0, failed: 0 });
      counts[holds(answer) ? 'passed' : 'failed'] += 1;
    }
  },
  sleep(seconds) {
    seen.slept += seconds;
  },
  Counter: class {
    constructor(name) {
      this.name = name;
      seen.counters[name] = 0;
    }
    add(count) {
      seen.counters[this.name] += count;
    }
  },
};

const MODULES = {
  'index.mjs': 'export const { check, sleep } = globalThis.k6Stub;',
  'http.mjs': 'export default globalThis.k6Stub.http;',
  'metrics.mjs': 'export const { Counter } = globalThis.k6Stub;',
  'package.json': JSON.stringify({
    name: 'k6',
    exports: { '.': './index.mjs', './http': './http.mjs', './metrics': './metrics.mjs' },
  }),
};

const folder = mkdtempSync(join(tmpdir(), 'k6-stub-'));
try {
  mkdirSync(join(folder, 'node_modules', 'k6'), { recursive: true });
  for (const [name, text] of Object.entries(MODULES)) {
    writeFileSync(join(folder, 'node_modules', 'k6', name), text);
  }
  copyFileSync(script, join(folder, 'script.mjs'));
  const loaded = await import(pathToFileURL(join(folder, 'script.mjs')));
  for (globalThis.__ITER = 0; globalThis.__ITER < Number(turns); globalThis.__ITER += 1) {
    loaded.default();
  }
  console.log(JSON.stringify({ ...seen, options: loaded.options }));
} finally {
  rmSync(folder, { recursive: true });
}
