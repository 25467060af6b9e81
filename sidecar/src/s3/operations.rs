//! The table of what is served. Whatever is not in it, the library answers with `NotImplemented`.

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::failure::{Answer, Failure};
use super::{Gateway, REGION};
use crate::metrics::OutcomeLabel;

macro_rules! names {
    ($($name:ident: $label:literal),* $(,)?) => {
        $(const $name: &str = $label;)*
        /// What operations are called in metrics.
        pub const OPERATIONS: &[&str] = &[$($label),*];
    };
}

names! {
    LIST_BUCKETS: "s3ListBuckets",
    CREATE_BUCKET: "s3CreateBucket",
    HEAD_BUCKET: "s3HeadBucket",
    DELETE_BUCKET: "s3DeleteBucket",
    GET_OBJECT: "s3GetObject",
    HEAD_OBJECT: "s3HeadObject",
    PUT_OBJECT: "s3PutObject",
    DELETE_OBJECT: "s3DeleteObject",
    DELETE_OBJECTS: "s3DeleteObjects",
    COPY_OBJECT: "s3CopyObject",
    CREATE_UPLOAD: "s3CreateMultipartUpload",
    UPLOAD_PART: "s3UploadPart",
    UPLOAD_PART_COPY: "s3UploadPartCopy",
    COMPLETE_UPLOAD: "s3CompleteMultipartUpload",
    ABORT_UPLOAD: "s3AbortMultipartUpload",
    LIST_PARTS: "s3ListParts",
    LIST_UPLOADS: "s3ListMultipartUploads",
    LIST_OBJECTS: "s3ListObjects",
    LIST_OBJECTS_V2: "s3ListObjectsV2",
}

impl Gateway {
    /// Does what was asked for, and counts what became of it.
    async fn answer<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Answer<T>>,
    ) -> S3Result<S3Response<T>> {
        let running = self.0.metrics.of_requests(operation).start();
        let answer = work.await;
        running.end(match &answer {
            Ok(_) => OutcomeLabel::Success,
            Err(Failure::Refused(_)) => OutcomeLabel::Failed,
            Err(Failure::Unknown(_)) => OutcomeLabel::Unknown,
        });
        answer.map(S3Response::new).map_err(Failure::into_error)
    }
}

#[async_trait::async_trait]
impl S3 for Gateway {
    async fn list_buckets(&self, request: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.answer(LIST_BUCKETS, self.buckets(request.input)).await
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        let make = async {
            self.make_bucket(&bucket).await?;
            Ok(CreateBucketOutput { location: Some(format!("/{bucket}")) })
        };
        self.answer(CREATE_BUCKET, make).await
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let look = async {
            self.is_there_now(&request.input.bucket).await?;
            Ok(HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..HeadBucketOutput::default() })
        };
        self.answer(HEAD_BUCKET, look).await
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        let remove = async {
            self.remove_bucket(&request.input.bucket).await?;
            Ok(DeleteBucketOutput::default())
        };
        let mut response = self.answer(DELETE_BUCKET, remove).await?;
        response.status = Some(axum::http::StatusCode::NO_CONTENT);
        Ok(response)
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.answer(GET_OBJECT, Gateway::get_object(self, request.input)).await
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.answer(HEAD_OBJECT, Gateway::head_object(self, request.input)).await
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.answer(PUT_OBJECT, Gateway::put_object(self, request)).await
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let remove = async {
            Gateway::delete_object(self, request.input).await?;
            Ok(DeleteObjectOutput::default())
        };
        self.answer(DELETE_OBJECT, remove).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.answer(DELETE_OBJECTS, Gateway::delete_objects(self, request.input)).await
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        self.answer(COPY_OBJECT, Gateway::copy_object(self, request)).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.answer(CREATE_UPLOAD, self.create_upload(request.input)).await
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.answer(UPLOAD_PART, Gateway::upload_part(self, request)).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.answer(UPLOAD_PART_COPY, Gateway::upload_part_copy(self, request.input)).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.answer(COMPLETE_UPLOAD, self.complete_upload(request)).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let abort = async {
            self.abort_upload(request.input).await?;
            Ok(AbortMultipartUploadOutput::default())
        };
        self.answer(ABORT_UPLOAD, abort).await
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.answer(LIST_PARTS, Gateway::list_parts(self, request.input)).await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.answer(LIST_UPLOADS, self.list_uploads(request.input)).await
    }

    async fn list_objects(&self, request: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        self.answer(LIST_OBJECTS, Gateway::list_objects(self, request.input)).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.answer(LIST_OBJECTS_V2, Gateway::list_objects_v2(self, request.input)).await
    }
}
