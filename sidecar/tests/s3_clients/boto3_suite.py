"""What a program in Python does with S3, by boto3 as it is published. The endpoint and the keys are in the environment."""

import concurrent.futures
import hashlib
import io
import json
import os

import boto3
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

BUCKET = "python"


def refused(call, **arguments):
    """The status and code that a call is refused with."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    raise AssertionError(f"{arguments} was not refused")


def objects(s3):
    put = s3.put_object(Bucket=BUCKET, Key="dir/ä b+c", Body=b"hello", ContentType="text/plain", Metadata={"who": "me"})
    assert put["ETag"] == '"5d41402abc4b2a76b9719d911017c592"', put
    got = s3.get_object(Bucket=BUCKET, Key="dir/ä b+c")
    assert got["Body"].read() == b"hello" and got["ContentType"] == "text/plain" and got["Metadata"] == {"who": "me"}
    assert s3.get_object(Bucket=BUCKET, Key="dir/ä b+c", Range="bytes=1-2")["Body"].read() == b"el"
    for algorithm in ["CRC32", "SHA1", "SHA256"]:
        s3.put_object(Bucket=BUCKET, Key=algorithm, Body=b"x" * 1000, ChecksumAlgorithm=algorithm)
        got = s3.get_object(Bucket=BUCKET, Key=algorithm, ChecksumMode="ENABLED")
        assert got["Body"].read() == b"x" * 1000 and got["Checksum" + algorithm]
    s3.put_object(Bucket=BUCKET, Key="stream", Body=io.BytesIO(b"y" * 200_000))
    assert s3.head_object(Bucket=BUCKET, Key="stream")["ContentLength"] == 200_000
    assert refused(s3.get_object, Bucket=BUCKET, Key="none") == (404, "NoSuchKey")
    assert refused(s3.get_object, Bucket="no-such", Key="none") == (404, "NoSuchBucket")
    assert refused(s3.put_object, Bucket=BUCKET, Key="x", Body=b"a", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==") == (400, "BadDigest")
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "dir/ä b+c"})
    assert s3.get_object(Bucket=BUCKET, Key="copy")["Body"].read() == b"hello"


def conditions(s3):
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")
    assert refused(s3.put_object, Bucket=BUCKET, Key="once", Body=b"2", IfNoneMatch="*") == (412, "PreconditionFailed")
    etag = s3.head_object(Bucket=BUCKET, Key="once")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"2", IfMatch=etag)
    assert refused(s3.put_object, Bucket=BUCKET, Key="once", Body=b"3", IfMatch=etag) == (412, "PreconditionFailed")
    assert refused(s3.get_object, Bucket=BUCKET, Key="once", IfMatch=etag)[0] == 412
    assert refused(s3.get_object, Bucket=BUCKET, Key="once", IfNoneMatch='"c81e728d9d4c2f636f067f89cc14862c"')[0] == 304

    def create(number):
        try:
            s3.put_object(Bucket=BUCKET, Key="race", Body=str(number).encode(), IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed", error
            return None

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(create, range(16)) if number is not None]
    assert len(winners) == 1, winners
    assert s3.get_object(Bucket=BUCKET, Key="race")["Body"].read() == str(winners[0]).encode()


def lists(s3):
    for number in range(25):
        s3.put_object(Bucket=BUCKET, Key=f"list/{number % 5}/{number:02} &+ä", Body=json.dumps(number))
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 4})
    keys = [item["Key"] for page in pages for item in page["Contents"]]
    assert len(keys) == 25 and keys == sorted(keys), keys
    pages = s3.get_paginator("list_objects").paginate(Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2})
    prefixes = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
    assert prefixes == [f"list/{number}/" for number in range(5)], prefixes
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(deleted["Deleted"]) == 25, deleted
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="list/")["KeyCount"] == 0


def large(s3):
    body = os.urandom(13 * 1024 * 1024 + 7)
    s3.put_object(Bucket=BUCKET, Key="large", Body=body)
    got = s3.get_object(Bucket=BUCKET, Key="large")
    assert got["Body"].read() == body
    assert got["ETag"].strip('"') == hashlib.md5(body).hexdigest()
    assert s3.get_object(Bucket=BUCKET, Key="large", Range="bytes=5242870-5242889")["Body"].read() == body[5242870:5242890]
    parts = TransferConfig(multipart_threshold=5 * 1024 * 1024, multipart_chunksize=5 * 1024 * 1024)
    s3.upload_fileobj(io.BytesIO(body), BUCKET, "parts", Config=parts)
    into = io.BytesIO()
    s3.download_fileobj(BUCKET, "parts", into, Config=parts)
    assert into.getvalue() == body
    assert s3.head_object(Bucket=BUCKET, Key="parts")["ETag"].endswith('-3"')
    s3.copy({"Bucket": BUCKET, "Key": "parts"}, BUCKET, "parts-copy", Config=parts)
    assert s3.get_object(Bucket=BUCKET, Key="parts-copy")["Body"].read() == body
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="broken-off")["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key="broken-off", UploadId=upload, PartNumber=1, Body=b"x")
    assert [item["UploadId"] for item in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == [upload]
    assert [item["Size"] for item in s3.list_parts(Bucket=BUCKET, Key="broken-off", UploadId=upload)["Parts"]] == [1]
    s3.abort_multipart_upload(Bucket=BUCKET, Key="broken-off", UploadId=upload)
    assert refused(s3.upload_part, Bucket=BUCKET, Key="broken-off", UploadId=upload, PartNumber=2, Body=b"x") == (404, "NoSuchUpload")
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def addresses(s3):
    # A shard may be away for a while: what boto3 does by itself, a program that is given an address has to do.
    http = urllib3.PoolManager(retries=urllib3.Retry(10, status_forcelist=[500, 503], backoff_factor=0.5, allowed_methods=None))
    url = s3.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "signed", "ContentType": "text/plain"}, ExpiresIn=60)
    assert http.request("PUT", url, body=b"by address", headers={"content-type": "text/plain"}).status == 200
    url = s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "signed"}, ExpiresIn=60)
    assert http.request("GET", url).data == b"by address"


def main():
    s3 = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    s3.create_bucket(Bucket=BUCKET)
    s3.head_bucket(Bucket=BUCKET)
    assert BUCKET in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    for habit in [objects, conditions, lists, large, addresses]:
        habit(s3)
        print(f"boto3 {boto3.__version__}: {habit.__name__} as expected")
    everything = boto3.resource("s3").Bucket(BUCKET)
    everything.objects.all().delete()
    s3.delete_bucket(Bucket=BUCKET)
    assert refused(s3.head_bucket, Bucket=BUCKET)[0] == 404


main()
