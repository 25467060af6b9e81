// What a program on Node does with S3, by the AWS SDK for JavaScript as it is published. The endpoint and the keys are in the
// environment.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import {
  CopyObjectCommand, CreateBucketCommand, DeleteBucketCommand, DeleteObjectsCommand, GetObjectCommand, HeadObjectCommand,
  ListObjectsV2Command, PutObjectCommand, S3Client, paginateListObjectsV2,
} from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'
import { getSignedUrl } from '@aws-sdk/s3-request-presigner'

const Bucket = 'node'
const client = new S3Client({ forcePathStyle: true })
const send = (Command, input) => client.send(new Command({ Bucket, ...input }))
const text = async (Key, input) => (await send(GetObjectCommand, { Key, ...input })).Body.transformToString()
const refused = async (work, status, name) => {
  await assert.rejects(work, error => {
    assert.equal(error.$metadata?.httpStatusCode, status, error)
    if (name) assert.equal(error.name, name)
    return true
  })
}

async function smallDocuments () {
  const keys = Array.from({ length: 200 }, (_, number) => `entities/${number % 16}/${number}.json`)
  await Promise.all(keys.map(Key => send(PutObjectCommand, { Key, Body: JSON.stringify({ Key }), ContentType: 'application/json' })))
  assert.deepEqual(JSON.parse(await text(keys[7])), { Key: keys[7] })
  const found = []
  for await (const page of paginateListObjectsV2({ client, pageSize: 30 }, { Bucket, Prefix: 'entities/' })) {
    found.push(...page.Contents.map(item => item.Key))
  }
  assert.deepEqual(found, [...keys].sort())
  const once = await send(ListObjectsV2Command, { Prefix: 'entities/' })
  assert.equal(once.KeyCount, 200)
  await send(DeleteObjectsCommand, { Delete: { Objects: keys.map(Key => ({ Key })) } })
  assert.equal((await send(ListObjectsV2Command, { Prefix: 'entities/' })).KeyCount, 0)
}

// Create it if it is not there; else look at it, and write over just that.
async function countUp (Key) {
  for (;;) {
    let body = '1'
    let condition = { IfNoneMatch: '*' }
    try {
      const head = await send(HeadObjectCommand, { Key })
      body = String(Number(await text(Key, { IfMatch: head.ETag })) + 1)
      condition = { IfMatch: head.ETag }
    } catch (error) {
      if (error.$metadata?.httpStatusCode === 412) continue
      if (error.$metadata?.httpStatusCode !== 404) throw error
    }
    try {
      return await send(PutObjectCommand, { Key, Body: body, ...condition })
    } catch (error) {
      if (error.name !== 'PreconditionFailed') throw error
    }
  }
}

async function conditions () {
  await Promise.all(Array.from({ length: 8 }, async () => {
    for (let n = 0; n < 5; n++) await countUp('counter')
  }))
  assert.equal(await text('counter'), '40')
  await refused(send(PutObjectCommand, { Key: 'counter', Body: 'x', IfNoneMatch: '*' }), 412, 'PreconditionFailed')
  await refused(text('none'), 404, 'NoSuchKey')
}

async function bytes () {
  const body = randomBytes(300_000)
  await send(PutObjectCommand, { Key: 'buffer', Body: body, Metadata: { colour: 'blue' } })
  const got = await send(GetObjectCommand, { Key: 'buffer' })
  assert.equal(got.Metadata.colour, 'blue')
  assert.ok(body.equals(Buffer.from(await got.Body.transformToByteArray())))
  await send(PutObjectCommand, { Key: 'stream', Body: Readable.from([body, body]), ContentLength: 600_000 })
  assert.equal((await send(HeadObjectCommand, { Key: 'stream' })).ContentLength, 600_000)
  await send(CopyObjectCommand, { Key: 'copy', CopySource: `${Bucket}/buffer` })
  assert.equal((await text('copy', { Range: 'bytes=0-9' })).length > 0, true)
}

async function parts () {
  const body = randomBytes(12 * 1024 * 1024 + 3)
  const params = { Bucket, Key: 'parts', Body: Readable.from([body]) }
  await new Upload({ client, params, partSize: 5 * 1024 * 1024, queueSize: 3 }).done()
  const got = await send(GetObjectCommand, { Key: 'parts' })
  assert.ok(body.equals(Buffer.from(await got.Body.transformToByteArray())))
  assert.match(got.ETag, /-3"$/)
}

// A shard may be away for a while: what the SDK does by itself, a program that is given an address has to do.
async function fetched (url, options) {
  for (let tries = 1; ; tries++) {
    const answer = await fetch(url, options)
    if (answer.status < 500 || tries === 10) return answer
    await setTimeout(1000)
  }
}

async function addresses () {
  // Who signs an address does not know the bytes yet: by default the SDK would sign the checksum of none, as with S3 itself.
  const signer = new S3Client({ forcePathStyle: true, requestChecksumCalculation: 'WHEN_REQUIRED' })
  const put = new PutObjectCommand({ Bucket, Key: 'signed', Metadata: { from: 'afar' } })
  const url = await getSignedUrl(signer, put, { expiresIn: 60 })
  const answer = await fetched(url, { method: 'PUT', body: 'by address' })
  assert.equal(answer.status, 200, await answer.text())
  const head = await send(HeadObjectCommand, { Key: 'signed' })
  assert.deepEqual(head.Metadata, { from: 'afar' })
  const got = await fetched(await getSignedUrl(client, new GetObjectCommand({ Bucket, Key: 'signed' }), { expiresIn: 60 }))
  assert.equal(await got.text(), 'by address')
}

await client.send(new CreateBucketCommand({ Bucket }))
for (const habit of [smallDocuments, conditions, bytes, parts, addresses]) {
  await habit()
  console.log(`@aws-sdk/client-s3: ${habit.name} as expected`)
}
for await (const page of paginateListObjectsV2({ client }, { Bucket })) {
  await send(DeleteObjectsCommand, { Delete: { Objects: page.Contents.map(({ Key }) => ({ Key })) } })
}
await client.send(new DeleteBucketCommand({ Bucket }))
