// A ledger in S3, by the AWS SDK as it is published. It knows S3 and nothing else: where that is, and the keys, are in the
// environment, as for any program that uses the SDK.
//
//   node ledger.mjs write WHO      writes until its input ends, and prints a line for all that S3 has acknowledged
//   node ledger.mjs check          reads such lines, of any number of writers, and sees that it is all there

import { createHash, randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  CreateBucketCommand, GetObjectCommand, HeadObjectCommand, PutObjectCommand, S3Client, paginateListObjectsV2,
} from '@aws-sdk/client-s3'

const Bucket = process.env.LEDGER_BUCKET ?? 'ledger'
const client = new S3Client({})

const send = (Command, input) => client.send(new Command({ Bucket, ...input }))
const bytes = async (Key) => Buffer.from(await (await send(GetObjectCommand, { Key })).Body.transformToByteArray())
const say = line => console.log(JSON.stringify(line))
const sha256 = data => createHash('sha256').update(data).digest('hex')

// What S3 says when it was understood, and something else stands there than was asked for.
const refused = error => [404, 409, 412].includes(error.$metadata?.httpStatusCode)

// Does something until S3 answers. `doubt` tells whether an attempt before may have taken effect.
async function insist (work) {
  for (let doubt = false; ; doubt = true) {
    try {
      return await work(doubt)
    } catch (error) {
      if (refused(error)) throw error
      await sleep(200)
    }
  }
}

// A document of its own, which nobody else writes: only if it is not there yet.
async function enter (Key, text) {
  await insist(async doubt => {
    try {
      await send(PutObjectCommand, { Key, Body: text, ContentType: 'application/json', IfNoneMatch: '*' })
    } catch (error) {
      if (error.$metadata?.httpStatusCode !== 412) throw error
      const stands = (await bytes(Key)).toString()
      if (!doubt || stands !== text) throw new Error(`${Key} was refused as if it were there: ${stands}`)
    }
  })
  say({ entry: Key, text })
}

// One number that all writers add to, each on the condition that it is still what was read.
async function add () {
  // Told first: whoever is killed before the answer leaves one of which nobody knows.
  say({ adding: 1 })
  for (;;) {
    try {
      const { ETag } = await insist(() => send(HeadObjectCommand, { Key: 'balance' }))
      const got = await insist(() => send(GetObjectCommand, { Key: 'balance', IfMatch: ETag }))
      const sum = Number(await got.Body.transformToString()) + 1
      await send(PutObjectCommand, { Key: 'balance', Body: String(sum), IfMatch: ETag })
      return say({ added: 1 })
    } catch (error) {
      if ([409, 412].includes(error.$metadata?.httpStatusCode)) continue
      // Nobody knows.
      return
    }
  }
}

// Something large, which is written over each time.
async function report (Key) {
  const Body = randomBytes(1536 * 1024)
  const hash = sha256(Body)
  say({ report: Key, begun: hash })
  await insist(() => send(PutObjectCommand, { Key, Body }))
  say({ report: Key, hash })
}

async function write (who) {
  let open = true
  process.stdin.on('end', () => { open = false }).resume()
  await insist(() => client.send(new CreateBucketCommand({ Bucket })).catch(error => { if (!refused(error)) throw error }))
  const balance = { Key: 'balance', Body: '0', IfNoneMatch: '*' }
  await insist(() => send(PutObjectCommand, balance).catch(error => { if (!refused(error)) throw error }))
  for (let number = 1; open; number++) {
    const name = String(number).padStart(6, '0')
    await enter(`entries/${who}/${name}.json`, JSON.stringify({ who, number }))
    await add()
    if (number % 5 === 0) await report(`reports/${who}`)
  }
}

async function check () {
  const entries = new Map()
  const reports = new Map()
  let adding = 0
  let added = 0
  for await (const line of createInterface({ input: process.stdin })) {
    const told = JSON.parse(line)
    adding += told.adding ?? 0
    added += told.added ?? 0
    if (told.entry) entries.set(told.entry, told.text)
    // What was acknowledged last, or what was begun since.
    if (told.hash) reports.set(told.report, [told.hash])
    if (told.begun) reports.set(told.report, [...(reports.get(told.report) ?? [null]), told.begun])
  }
  const listed = new Set()
  for await (const page of paginateListObjectsV2({ client }, { Bucket, Prefix: 'entries/' })) {
    page.Contents?.forEach(({ Key }) => listed.add(Key))
  }
  const wrong = []
  for (const [Key, text] of entries) {
    const stands = await bytes(Key).then(String, error => error.name)
    if (stands !== text || !listed.has(Key)) wrong.push(`${Key}: ${stands}, listed: ${listed.has(Key)}`)
  }
  for (const [Key, hashes] of reports) {
    const stands = await bytes(Key).then(sha256, error => error.name === 'NoSuchKey' ? null : error.name)
    if (!hashes.includes(stands)) wrong.push(`${Key}: ${stands} is none of ${hashes}`)
  }
  const doubt = adding - added
  const sum = Number(await bytes('balance'))
  if (sum < added || sum > added + doubt) wrong.push(`the balance is ${sum} after ${added} and ${doubt} in doubt`)
  console.log(`${entries.size} entries, ${reports.size} reports, balance ${sum} (${added} added, ${doubt} in doubt)`)
  if (wrong.length > 0 || entries.size === 0) {
    console.error(wrong.join('\n') || 'nothing was acknowledged')
    process.exit(1)
  }
}

const [what, who] = process.argv.slice(2)
if (what === 'write' && who) await write(who)
else if (what === 'check') await check()
else {
  console.error('usage: node ledger.mjs write WHO | node ledger.mjs check')
  process.exit(2)
}
