//! An upper estimate of a request's tokens, without the tokenizer of any vendor. Pure.
//!
//! One pass over the decoded text adds up a price for each character, which depends on the
//! character before it. The prices were chosen against the tokenizers of OpenAI, Anthropic (its
//! published one), Google, Meta, Alibaba and DeepSeek. None of them makes more tokens of prose,
//! code, base64, digits, random letters, any script, or whitespace. Common words and common pairs
//! of letters have lower prices, so that the estimate of English and code is less than twice the
//! true count. No character costs more than its bytes, since a byte is never two tokens.

use self::words::{is_common_pair, is_common_word};

mod words;

/// Prices are in 64ths of a token.
const TOKEN: u64 = 64;
/// The price of a letter after a letter, if the pair is common in English and code, or not.
const COMMON_PAIR: u64 = 23;
const RARE_PAIR: u64 = 48;
/// The price of a capital after a capital, and of a small letter after a capital.
const CAPITALS: u64 = 54;
const AFTER_CAPITAL: u64 = 48;
/// The price of a sign after the same sign.
const SAME_SIGN: u64 = 22;
/// The price of each further space in a run.
const MORE_SPACE: u64 = 5;

/// More letters than any common word has.
const LONG: u64 = 9;

/// The size of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    /// The upper estimate.
    pub(super) tokens: u64,
    /// The bytes of the text after the provider has decoded it.
    pub(super) bytes: u64,
}

/// Estimates a JSON text. An escape counts as the character that it stands for.
pub(super) fn of_json(text: &str) -> Estimate {
    let mut meter = Meter::default();
    let bytes = text.as_bytes();
    let (mut at, mut saved) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii() && byte != b'\\' {
            meter.ascii(byte);
            at += 1;
            continue;
        }
        let mut rest = text[at..].chars();
        let char = match rest.next() {
            Some('\\') => escaped(&mut rest),
            Some(char) => char,
            None => break,
        };
        let next = text.len() - rest.as_str().len();
        saved += (next - at).saturating_sub(char.len_utf8());
        at = next;
        if char.is_ascii() {
            meter.ascii(char as u8);
        } else {
            meter.other(char);
        }
    }
    meter.end_word(true);
    let bytes = (text.len() - saved) as u64;
    Estimate {
        tokens: meter.units.div_ceil(TOKEN).min(bytes),
        bytes,
    }
}

/// Reads the character after a backslash.
fn escaped(chars: &mut std::str::Chars<'_>) -> char {
    match chars.next() {
        Some('n') => '\n',
        Some('t') => '\t',
        Some('r') => '\r',
        Some('b' | 'f') => '\u{8}',
        Some('u') => code_point(chars),
        Some(other) => other,
        None => '\\',
    }
}

/// Reads the code point after `\u`. A character beyond 16 bits is written as two escapes.
fn code_point(chars: &mut std::str::Chars<'_>) -> char {
    let Some(first) = hex(chars) else {
        return char::REPLACEMENT_CHARACTER;
    };
    let mut ahead = chars.clone();
    let second = match (ahead.next(), ahead.next()) {
        (Some('\\'), Some('u')) if (0xD800..0xDC00).contains(&first) => hex(&mut ahead),
        (Some(_) | None, Some(_) | None) => None,
    };
    let code = match second {
        Some(second @ 0xDC00..0xE000) => {
            *chars = ahead;
            0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
        }
        Some(_) | None => first,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn hex(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    chars
        .by_ref()
        .take(4)
        .try_fold(0, |code, digit| Some(code * 16 + digit.to_digit(16)?))
}

#[derive(Default)]
struct Meter {
    units: u64,
    /// The ASCII character before, or `SPACES`. 0 for any other character and at the start.
    before: u8,
    word: Word,
}

/// The current word: a capital or a small letter, then small letters.
#[derive(Clone, Copy, Default)]
struct Word {
    units: u64,
    /// The last eight letters, one in each byte.
    letters: u64,
    /// The number of letters. A capital inside adds `LONG`, so that the word does not count as
    /// common.
    length: u64,
}

/// No branch here depends on the text, except at the ends of words that may be common.
impl Meter {
    #[inline(always)]
    fn ascii(&mut self, byte: u8) {
        let before = self.before;
        let (case, case_before) = (case(byte), case(before));
        let begins = (case_before == LetterCase::Other)
            | ((case == LetterCase::Capital) & (case_before == LetterCase::Small));
        self.end_word((case == LetterCase::Other) | begins);
        let price = u64::from(PRICES[before as usize][byte as usize]);
        self.units += price;
        let so_far = if begins { Word::default() } else { self.word };
        self.word = Word {
            units: so_far.units + price,
            letters: so_far.letters << 8 | u64::from(byte | 0x20),
            length: so_far.length
                + if (case == LetterCase::Capital) & !begins {
                    LONG
                } else {
                    1
                },
        };
        let in_run = (byte == b' ') & ((before == b' ') | (before == SPACES));
        self.before = if in_run { SPACES } else { byte };
    }

    /// Ends a word. A common word costs one token, whatever its letters cost.
    #[inline(always)]
    fn end_word(&mut self, ends: bool) {
        let Word {
            units,
            letters,
            length,
        } = self.word;
        let is_word = case(self.before) != LetterCase::Other;
        if (ends & is_word & (length.wrapping_sub(2) < LONG - 2)) && is_common_word(letters) {
            self.units -= units - TOKEN;
        }
    }

    #[inline(always)]
    fn other(&mut self, char: char) {
        self.end_word(true);
        let after_space = if self.before == b' ' { TOKEN } else { 0 };
        self.before = 0;
        self.units += after_space + of_other(char);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LetterCase {
    Small,
    Capital,
    Other,
}

#[inline]
const fn case(byte: u8) -> LetterCase {
    match byte {
        b'a'..=b'z' => LetterCase::Small,
        b'A'..=b'Z' => LetterCase::Capital,
        _ => LetterCase::Other,
    }
}

/// Stands for a space after a space.
const SPACES: u8 = 128;
/// The price of a character, by the character before it.
static PRICES: [[u8; 128]; 129] = prices();

const fn prices() -> [[u8; 128]; 129] {
    let mut table = [[0; 128]; 129];
    let mut before = 0;
    while before < 129 {
        let mut byte = 0;
        while byte < 128 {
            table[before as usize][byte as usize] = price(before, byte);
            byte += 1;
        }
        before += 1;
    }
    table
}

const fn price(before: u8, byte: u8) -> u8 {
    let after_space = if before == b' ' { TOKEN } else { 0 };
    let price = match (case(before), case(byte)) {
        (LetterCase::Other, LetterCase::Small | LetterCase::Capital)
        | (LetterCase::Small, LetterCase::Capital) => TOKEN,
        (LetterCase::Capital, LetterCase::Capital) => CAPITALS,
        (LetterCase::Capital, LetterCase::Small) => AFTER_CAPITAL,
        (LetterCase::Small, LetterCase::Small) if is_common_pair(before, byte) => COMMON_PAIR,
        (LetterCase::Small, LetterCase::Small) => RARE_PAIR,
        (_, LetterCase::Other) => match byte {
            b' ' if before == SPACES => MORE_SPACE,
            b' ' if before == b' ' => TOKEN + MORE_SPACE,
            b' ' => 0,
            // Tokenizers join a space with the word or sign after it, but not with these.
            b'0'..=b'9' | 0..=31 | 127 => TOKEN + after_space,
            sign if sign == before => SAME_SIGN,
            _sign => TOKEN,
        },
    };
    // At most two tokens, so it fits.
    price as u8
}

/// The price of a character beyond ASCII. Tokenizers know the letters of these scripts well. Any
/// other character may be as many tokens as it has bytes.
fn of_other(char: char) -> u64 {
    match char {
        'А'..='я' => TOKEN * 5 / 4,
        'α'..='ω' | 'א'..='ת' | 'ء'..='ي' => TOKEN * 3 / 2,
        // Devanagari, Thai, Hiragana and Katakana.
        '\u{904}'..='\u{94D}' | 'ก'..='\u{E4E}' | 'ぁ'..='ん' | 'ァ'..='ヶ' => TOKEN * 2,
        char => TOKEN * char.len_utf8() as u64,
    }
}

#[cfg(test)]
mod tests;
