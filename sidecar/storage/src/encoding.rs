//! Keys and namespaces as paths: reversible, in key order, and safe as object names on posix gateways and as file names.
//!
//! `0-9 A-Z a-z` stand for themselves. Any other byte becomes an escape character and two hexadecimal digits; which
//! escape character depends on where the byte sorts, so that encoded text sorts as the keys do:
//!
//! | byte | escape |
//! |---|---|
//! | below `0` | `-` |
//! | between `9` and `A` | `=` |
//! | between `Z` and `a` | `_` |
//! | above `z` | `~` |
//!
//! The text is cut in pieces of 200 characters. Every piece but the last names a folder and ends in `+`, the last one
//! names the file: no file and folder ever want the same name, and no name exceeds 201 bytes. A listing sorted by path,
//! by a store or by a file system, is in key order, because two paths first differ where the encoded texts do.
//!
//! Within a store: `kv/<encoded key>`, and `ns/<encoded namespace>/kv/<encoded key>`, nested as deep as namespaces are.

use crate::Namespace;

/// Characters of encoded text in one path segment.
const PIECE: usize = 200;
/// Ends the name of a folder that holds the rest of a long key.
pub const FOLDER_MARK: char = '+';

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The escape character for a byte, or `None` where it stands for itself.
fn escape(byte: u8) -> Option<char> {
    match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => None,
        0..b'0' => Some('-'),
        b':'..b'A' => Some('='),
        b'['..b'a' => Some('_'),
        b'{'.. => Some('~'),
    }
}

/// The relative path of a key or namespace. Of an empty text (a prefix): the empty path.
pub fn encode(text: &str) -> String {
    let mut path = String::with_capacity(text.len() + text.len() / 2);
    let mut in_piece = 0;
    let mut push = |c: char| {
        if in_piece == PIECE {
            path.push(FOLDER_MARK);
            path.push('/');
            in_piece = 0;
        }
        path.push(c);
        in_piece += 1;
    };
    for byte in text.bytes() {
        match escape(byte) {
            None => push(char::from(byte)),
            Some(escape) => {
                push(escape);
                push(char::from(HEX[usize::from(byte >> 4)]));
                push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    path
}

/// The text that [`encode`] turned into this path; `None` if it never did.
pub fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes().filter(|b| !matches!(b, b'+' | b'/'));
    while let Some(c) = rest.next() {
        match c {
            b'-' | b'=' | b'_' | b'~' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            plain => bytes.push(plain),
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    // One text has one path: whatever else decodes to it (pieces cut elsewhere, needless escapes) is no path of ours.
    (encode(&text) == path).then_some(text)
}

/// The folder of a namespace's keys, relative to the root of the store, with a slash at its end.
pub fn keys_folder(namespaces: &[Namespace]) -> String {
    let mut folder = String::new();
    for namespace in namespaces {
        folder.push_str("ns/");
        folder.push_str(&encode(namespace.as_str()));
        folder.push('/');
    }
    folder.push_str("kv/");
    folder
}

/// The key of a path below the root of a store, if the path is that of a key in some namespace.
pub fn key_of_path(path: &str) -> Option<String> {
    parse_path(path).map(|(_, key)| key)
}

/// The namespaces, outermost first, and the key of a path below the root of a store; `None` if it is no key's path.
pub fn parse_path(path: &str) -> Option<(Vec<String>, String)> {
    let mut namespaces = Vec::new();
    let mut rest = path;
    loop {
        if let Some(encoded) = rest.strip_prefix("kv/") {
            return decode(encoded).filter(|key| !key.is_empty()).map(|key| (namespaces, key));
        }
        let (namespace, inner) = split_namespace(rest.strip_prefix("ns/")?)?;
        namespaces.push(namespace);
        rest = inner;
    }
}

/// A namespace at the start of a path, and what follows it and its slash.
fn split_namespace(path: &str) -> Option<(String, &str)> {
    let mut end = 0;
    loop {
        let segment = path[end..].find('/')?;
        end += segment + 1;
        let encoded = &path[..end - 1];
        if !encoded.ends_with(FOLDER_MARK) {
            return decode(encoded).filter(|text| !text.is_empty()).map(|text| (text, &path[end..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys that probe the seams: escapes, separators, cuts, and each other's neighbours.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{1,12}",
            "[a/.+-]{1,6}",
            "\\PC{1,40}",
            "[aZ0/\u{0}\u{7f}\u{e9}\u{1F600}]{190,260}",
            "[a]{198,202}",
            "[/]{64,70}",
        ]
    }

    fn segments(path: &str) -> impl Iterator<Item = &str> {
        path.split('/')
    }

    #[test]
    fn paths_are_what_the_layout_promises() {
        assert_eq!(encode("user42"), "user42");
        assert_eq!(encode("a/b"), "a-2Fb");
        assert_eq!(encode(".."), "-2E-2E");
        assert_eq!(encode("a b:C_d{\u{e9}"), "a-20b=3AC_5Fd~7B~C3~A9");
        assert_eq!(encode(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(encode(&"x".repeat(201)), format!("{}+/x", "x".repeat(200)));
        let namespaces = [Namespace::new("a").unwrap(), Namespace::new("b/c").unwrap()];
        assert_eq!(keys_folder(&namespaces), "ns/a/ns/b-2Fc/kv/");
        assert_eq!(keys_folder(&[]), "kv/");
    }

    #[test]
    fn foreign_paths_are_no_keys() {
        for foreign in ["a.b", "-2f", "-4", "-41", "~FF", "a/b", "a+/b", "..", "a+", "\u{e9}"] {
            assert_eq!(decode(foreign), None, "{foreign:?}");
        }
        for foreign in ["", "kv", "kv/", "kv/..", "a", "ns/a", "ns/a/b", "ns//kv/a", "tmp/a", "ns/../kv/a", "/kv/a"] {
            assert_eq!(key_of_path(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn the_longest_key_has_safe_segments() {
        let path = encode(&"\u{1F600}".repeat(256));
        assert!(segments(&path).all(|segment| segment.len() <= 255 && !segment.is_empty()));
        assert_eq!(decode(&path).unwrap(), "\u{1F600}".repeat(256));
    }

    proptest! {
        #[test]
        fn a_path_leads_back_to_its_key(text in any_text()) {
            let path = encode(&text);
            prop_assert_eq!(decode(&path), Some(text.clone()));
            for segment in segments(&path) {
                prop_assert!(!segment.is_empty() && segment.len() <= 201 && segment != "." && segment != "..");
                prop_assert!(segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-=_~+".contains(&b)));
            }
        }

        #[test]
        fn paths_sort_as_keys_do(a in any_text(), b in any_text()) {
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
        }

        #[test]
        fn paths_sort_as_keys_do_even_where_keys_nearly_agree(
            stem in any_text(), a in any_text(), b in any_text()
        ) {
            let (a, b) = (format!("{stem}{a}"), format!("{stem}{b}"));
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
            prop_assert!(encode(&a).starts_with(&encode(&stem)));
        }

        #[test]
        fn no_path_is_a_folder_of_another(a in any_text(), b in any_text()) {
            let folder = format!("{}/", encode(&a));
            prop_assert!(!encode(&b).starts_with(&folder));
        }

        #[test]
        fn a_path_in_namespaces_leads_back_to_its_key(
            names in prop::collection::vec(any_text(), 0..3), text in any_text()
        ) {
            let namespaces: Result<Vec<_>, _> = names.into_iter().map(Namespace::new).collect();
            prop_assume!(namespaces.is_ok());
            let namespaces = namespaces.unwrap();
            let path = format!("{}{}", keys_folder(&namespaces), encode(&text));
            prop_assert_eq!(key_of_path(&path), Some(text.clone()));
            let names: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
            prop_assert_eq!(parse_path(&path), Some((names, text)));
        }
    }
}
