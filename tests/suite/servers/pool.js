// Workers come and go, one after the other, until the input ends.
const { Worker } = require('worker_threads');
const { pbkdf2, randomBytes } = require('crypto');

const work = `
  const { parentPort } = require('worker_threads');
  const numbers = Array.from({ length: 100000 }, (_, i) => (i * 7919) % 10007).sort((a, b) => a - b);
  parentPort.postMessage(numbers[500]);
`;

let finished = 0;
function round() {
  // The engine's own pool of threads has something to do, too.
  pbkdf2('word', randomBytes(16), 2000, 64, 'sha512', () => {});
  new Worker(work, { eval: true }).on('exit', () => {
    if (++finished % 3 === 0) console.log(`finished ${finished}`);
    setTimeout(round, 10);
  });
}

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
round();
round();
console.log('ready');
