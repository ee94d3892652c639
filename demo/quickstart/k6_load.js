// Load for the quickstart demo: k6 run k6_load.js (BASE_URL=http://localhost:8000 by default).
//
// 5 users, then 20, at several endpoints, all from one address: most requests are denied. The run
// fails when an answer is neither a 200 nor a 429, lacks its headers, or when none was denied.
import http from 'k6/http';
import { check, sleep } from 'k6';
import { Counter } from 'k6/metrics';

const BASE_URL = __ENV.BASE_URL || 'http://localhost:8000';

const allowed = new Counter('rate_limit_allowed');
const denied = new Counter('rate_limit_denied');

export const options = {
  stages: [
    { duration: '10s', target: 5 },
    { duration: '20s', target: 20 },
    { duration: '10s', target: 0 },
  ],
  thresholds: {
    checks: ['rate==1'],
    rate_limit_allowed: ['count>0'],
    rate_limit_denied: ['count>0'],
  },
};

// A 429 is what is wanted here, so that k6 does not count it as a failure.
http.setResponseCallback(http.expectedStatuses(200, 429));

const JSON_TYPE = { headers: { 'Content-Type': 'application/json' } };
const REQUESTS = [
  () => http.get(`${BASE_URL}/`),
  () => http.get(`${BASE_URL}/api/data`),
  () => http.post(`${BASE_URL}/api/submit`, JSON.stringify({ user: __VU, turn: __ITER }), JSON_TYPE),
];

function isWhole(text) {
  return /^\d+$/.test(text || '');
}

export default function () {
  for (const request of REQUESTS) {
    const answer = request();
    check(answer, {
      'is a 200 or a 429': (r) => r.status === 200 || r.status === 429,
      'has the limit': (r) => r.headers['X-Ratelimit-Limit'] === '10',
      'has the remaining requests': (r) => isWhole(r.headers['X-Ratelimit-Remaining']),
    });
    if (answer.status === 429) {
      denied.add(1);
      check(answer, {
        'has the time to wait': (r) => Number(r.headers['Retry-After']) >= 1,
        'has nothing left': (r) => r.headers['X-Ratelimit-Remaining'] === '0',
      });
    } else {
      allowed.add(1);
    }
  }

  check(http.get(`${BASE_URL}/health`), {
    'health is not limited': (r) => r.status === 200 && !r.headers['X-Ratelimit-Limit'],
  });
  sleep(0.5);
}
