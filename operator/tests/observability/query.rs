//! As much of PromQL as it takes to tell metrics from labels, functions and words.

use std::collections::BTreeSet;

/// Words that are neither metric nor label.
const WORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
/// Words before a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Functions that our queries use. `label_values` is Grafana's: the last of its arguments is a label.
const FUNCTIONS: [&str; 12] = [
    "sum",
    "min",
    "max",
    "rate",
    "increase",
    "delta",
    "absent",
    "time",
    "min_over_time",
    "histogram_quantile",
    "count",
    LABEL_VALUES,
];
const LABEL_VALUES: &str = "label_values";

/// What a query is about.
#[derive(Debug, Default)]
pub(crate) struct Query {
    /// The metrics that it names, each with the labels by which it selects.
    pub(crate) metrics: Vec<(String, BTreeSet<String>)>,
    /// The labels by which it groups.
    pub(crate) grouped: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Sign(char),
}

impl Query {
    /// Reads a query. What it does not know is an error.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut query = Self::default();
        let mut open = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let next = tokens.get(at + 1);
            match &tokens[at] {
                Token::Sign(sign @ ('(' | '{' | '[')) => open.push(*sign),
                Token::Sign(sign @ (')' | '}' | ']')) => {
                    let expected = match sign {
                        ')' => '(',
                        '}' => '{',
                        _ => '[',
                    };
                    if open.pop() != Some(expected) {
                        return Err(format!("{sign} closes nothing: {text}"));
                    }
                }
                Token::Sign(_) => {}
                // Within [5m].
                Token::Word(_) if open.last() == Some(&'[') => {}
                Token::Word(label) if open.last() == Some(&'{') => match query.metrics.last_mut() {
                    Some((_, labels)) => {
                        labels.insert(label.clone());
                    }
                    None => return Err(format!("{label} selects from nothing: {text}")),
                },
                Token::Word(word) if LISTS.contains(&word.as_str()) && next == Some(&Token::Sign('(')) => {
                    at += 2;
                    while let Some(token) = tokens.get(at).filter(|token| **token != Token::Sign(')')) {
                        if let Token::Word(label) = token {
                            query.grouped.insert(label.clone());
                        }
                        at += 1;
                    }
                    if at >= tokens.len() {
                        return Err(format!("a list is not closed: {text}"));
                    }
                }
                Token::Word(word) if FUNCTIONS.contains(&word.as_str()) => {}
                Token::Word(word) if WORDS.contains(&word.as_str()) => {}
                Token::Word(word) if next == Some(&Token::Sign('(')) => {
                    return Err(format!("{word} is no function: {text}"));
                }
                Token::Word(label) if is_last_argument_of_label_values(&tokens, at) => {
                    query.grouped.extend([label.clone()])
                }
                Token::Word(metric) => query.metrics.push((metric.clone(), BTreeSet::new())),
            }
            at += 1;
        }
        if open.is_empty() { Ok(query) } else { Err(format!("{open:?} is not closed: {text}")) }
    }
}

fn is_last_argument_of_label_values(tokens: &[Token], at: usize) -> bool {
    tokens.first() == Some(&Token::Word(LABEL_VALUES.into()))
        && at + 2 == tokens.len()
        && tokens[at - 1] == Token::Sign(',')
}

/// Names and signs; strings, numbers and white space are left out.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next() {
        match first {
            '"' => {
                if !rest.by_ref().any(|c| c == '"') {
                    return Err(format!("a string is not closed: {text}"));
                }
            }
            // A number, also one with a unit (5m); `$__rate_interval` stands for one.
            '0'..='9' | '$' => while rest.next_if(|c| c.is_ascii_alphanumeric() || ['.', '_'].contains(c)).is_some() {},
            'a'..='z' | 'A'..='Z' | '_' => {
                let mut word = String::from(first);
                while let Some(more) = rest.next_if(|c| c.is_ascii_alphanumeric() || ['_', ':'].contains(c)) {
                    word.push(more);
                }
                tokens.push(Token::Word(word));
            }
            white if white.is_whitespace() => {}
            sign => tokens.push(Token::Sign(sign)),
        }
    }
    Ok(tokens)
}
