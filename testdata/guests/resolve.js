// Asks by c-ares, as node does for everything but dns.lookup: `node resolve.js NAME...`. With `--servers A,B` by a Resolver of its own.
const dns = require('dns').promises;

const names = process.argv.slice(2);
let resolver = dns;
if (names[0] === '--servers') {
  resolver = new dns.Resolver();
  resolver.setServers(names[1].split(','));
  names.splice(0, 2);
}

async function say(what, ask) {
  let said;
  try {
    said = JSON.stringify((await ask()).map((one) => one.address || one).sort());
  } catch (error) {
    said = error.code;
  }
  console.log(`${what}: ${said.slice(0, 200)}`);
}

async function main() {
  for (const name of names) {
    if (/^[0-9.]+$/.test(name)) {
      await say(`reverse ${name}`, () => resolver.reverse(name));
      continue;
    }
    for (const kind of ['resolve4', 'resolve6', 'resolveAny']) {
      await say(`${kind} ${name}`, () => resolver[kind](name));
    }
  }
  // Many at once: c-ares has one socket for each server.
  const many = await Promise.all(Array.from({ length: 100 }, () => resolver.resolve4(names[0]).catch((error) => [error.code])));
  console.log(`at once: ${[...new Set(many.map(String))]}`.slice(0, 200));
}

main();
