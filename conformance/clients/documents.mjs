// The npm readers of documents: each schema in ajv's strict mode, and the OpenAPI document in one file.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { Validator } from '@seriousme/openapi-schema-validator';
import Ajv from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { check } from './support.mjs';

const read = (path) => JSON.parse(fs.readFileSync(path, 'utf8'));
const folder = 'spec/schemas';
const schemas = fs.readdirSync(folder).filter((name) => name.endsWith('.schema.json'));

for (const name of schemas) {
  await check('ajv', `compiles ${name} in strict mode`, () => {
    // An open tuple, such as a program and its arguments, is a mistake for `strictTuples` alone.
    const ajv = new Ajv({ strict: true, strictTuples: false });
    addFormats(ajv);
    for (const other of schemas) if (other !== name) ajv.addSchema(read(`${folder}/${other}`));
    ajv.compile(read(`${folder}/${name}`));
  });
}
await check('openapi-schema-validator', 'reads the bundled OpenAPI document', async () => {
  const text = fs.readFileSync('spec/openapi.bundle.json', 'utf8');
  assert.doesNotMatch(text, /"\$ref": *"[^#]/, 'it refers to another file');
  const validator = new Validator();
  const { valid, errors } = await validator.validate(text);
  assert.ok(valid, JSON.stringify(errors));
  const { paths } = validator.resolveRefs();
  const operations = Object.values(paths).flatMap((path) => Object.values(path).filter((member) => member.operationId));
  for (const operation of ['handshake', 'status', 'events', 'note', 'shutdown', 'ticket', 'handoff']) {
    const found = operations.find((candidate) => candidate.operationId === operation);
    assert.ok(found?.responses['401'].content['application/problem+json'].schema.properties.code, `${operation} describes no 401`);
  }
});
