//! Where S3's buckets and objects are, and what is kept beside them: which names they have in storage.

use brainy_storage::{Key, Namespace};

use super::failure::{Answer, Failure};

/// Where buckets are written down, by name.
pub(super) fn buckets() -> Answer<Namespace> {
    Ok(Namespace::reserved(&["s3", "buckets"])?)
}

/// Where uploads are noted.
pub(super) fn uploads() -> Answer<Namespace> {
    Ok(Namespace::reserved(&["s3", "uploads"])?)
}

/// Where the parts of uploads are written down.
pub(super) fn parts() -> Answer<Namespace> {
    Ok(Namespace::reserved(&["s3", "parts"])?)
}

/// Where the bytes of uploads are.
pub(super) fn pieces() -> Answer<Namespace> {
    Ok(Namespace::reserved(&["s3", "pieces"])?)
}

/// A bucket's objects: a namespace like any other.
pub(super) fn bucket(name: &str) -> Answer<Namespace> {
    Ok(Namespace::new(name)?)
}

/// An object of a bucket.
pub(super) fn object(bucket_name: &str, key: &str) -> Answer<(Namespace, Key)> {
    if key.is_empty() {
        return Err(Failure::new(s3s::S3ErrorCode::InvalidArgument, "The key is empty."));
    }
    Ok((bucket(bucket_name)?, Key::new(key)?))
}

/// Where an upload is noted.
pub(super) fn note(bucket: &str, upload: &str) -> Answer<Key> {
    Ok(Key::new(format!("{}{upload}", notes_of(bucket)))?)
}

/// What the places of all notes of a bucket begin with.
pub(super) fn notes_of(bucket: &str) -> String {
    format!("{bucket}/")
}

/// The bucket and the upload of a note's place.
pub(super) fn read_note(place: &str) -> Option<(&str, &str)> {
    place.split_once('/')
}

/// Where a part of an upload is written down; in order of their numbers.
pub(super) fn part(bucket: &str, upload: &str, number: u32) -> Answer<Key> {
    Ok(Key::new(format!("{}{number:05}", parts_of(bucket, upload)))?)
}

/// What the places of all parts of an upload begin with.
pub(super) fn parts_of(bucket: &str, upload: &str) -> String {
    format!("{bucket}/{upload}/")
}

/// Where a piece of an attempt at a part is.
pub(super) fn piece(upload: &str, number: u32, of: &str, index: u64) -> Answer<Key> {
    Ok(Key::new(format!("{}/{index:06}", attempt(upload, number, of)))?)
}

/// What the places of all pieces of an attempt at a part begin with.
pub(super) fn attempt(upload: &str, number: u32, attempt: &str) -> String {
    format!("{}{number:05}/{attempt}", pieces_of(upload))
}

/// What the places of all pieces of an upload begin with.
pub(super) fn pieces_of(upload: &str) -> String {
    format!("{upload}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_begins_as_all_of_its_kind_do() {
        let (note, part) = (note("b", "u").unwrap(), part("b", "u", 7).unwrap());
        assert!(note.as_str().starts_with(&notes_of("b")) && part.as_str().starts_with(&parts_of("b", "u")));
        assert_eq!(read_note(note.as_str()), Some(("b", "u")));
        let piece = piece("u", 7, "a", 3).unwrap();
        assert_eq!(piece.as_str().rsplit_once('/').unwrap().0, attempt("u", 7, "a"));
        assert!(piece.as_str().starts_with(&pieces_of("u")));
        assert!(buckets().unwrap().is_reserved() && !bucket("a-bucket").unwrap().is_reserved());
    }
}
