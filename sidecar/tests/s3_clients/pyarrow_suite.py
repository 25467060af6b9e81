"""A data set of Parquet files, written and read by Apache Arrow's own client of S3. The endpoint and the keys are in the environment."""

import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType, S3FileSystem

ROWS = 200_000
PARTS = 8


def table(first):
    numbers = pa.array(range(first, first + ROWS), pa.int64())
    # Bytes that do not shrink: files of several parts.
    noise = pa.array([os.urandom(64) for _ in range(ROWS)], pa.binary())
    return pa.table({"number": numbers, "part": pc.bit_wise_and(numbers, PARTS - 1), "noise": noise})


def files(s3, folder):
    return [info for info in s3.get_file_info(FileSelector(folder, recursive=True)) if info.type == FileType.File]


def data_set(s3, written):
    ds.write_dataset(
        written,
        "arrow/set",
        filesystem=s3,
        format="parquet",
        partitioning=["part"],
        partitioning_flavor="hive",
        max_rows_per_group=10_000,
    )
    found = ds.dataset("arrow/set", filesystem=s3, format="parquet", partitioning="hive")
    assert len(files(s3, "arrow/set")) == PARTS and found.count_rows() == ROWS
    read = found.to_table(columns=["number", "noise"]).sort_by("number")
    assert read.equals(written.select(["number", "noise"])), "another table was read than was written"
    # Only the row groups that can have it are read, by ranges.
    some = found.to_table(filter=(ds.field("part") == 3) & (ds.field("number") < 100)).column("number").to_pylist()
    assert sorted(some) == list(range(3, 100, PARTS)), some


def written_again(s3):
    again = table(ROWS)
    ds.write_dataset(
        again,
        "arrow/set",
        filesystem=s3,
        format="parquet",
        partitioning=["part"],
        partitioning_flavor="hive",
        existing_data_behavior="delete_matching",
    )
    found = ds.dataset("arrow/set", filesystem=s3, format="parquet", partitioning="hive")
    assert found.to_table(columns=["number"]).sort_by("number").equals(again.select(["number"]))


def one_file(s3, written):
    pq.write_table(written, "arrow/one.parquet", filesystem=s3, row_group_size=20_000)
    assert s3.get_file_info("arrow/one.parquet").size > 10 * 1024 * 1024
    with pq.ParquetFile("arrow/one.parquet", filesystem=s3) as file:
        assert file.num_row_groups == ROWS // 20_000
        assert file.read_row_group(7).column("number")[0].as_py() == 7 * 20_000
    s3.move("arrow/one.parquet", "arrow/moved.parquet")
    assert s3.get_file_info("arrow/one.parquet").type == FileType.NotFound
    assert pq.read_table("arrow/moved.parquet", filesystem=s3).equals(written)


def main():
    scheme, endpoint = os.environ["AWS_ENDPOINT_URL_S3"].split("://")
    # By itself it gives up after 3 s, sooner than another node may own what a dead one did.
    s3 = S3FileSystem(request_timeout=30, scheme=scheme, endpoint_override=endpoint, region=os.environ["AWS_REGION"], allow_bucket_creation=True, allow_bucket_deletion=True)
    s3.create_dir("arrow")
    written = table(0)
    data_set(s3, written)
    written_again(s3)
    one_file(s3, written)
    s3.delete_dir("arrow")
    assert s3.get_file_info("arrow").type == FileType.NotFound
    print(f"pyarrow {pa.__version__}: {2 * ROWS + ROWS} rows in Parquet files, as expected")


main()
