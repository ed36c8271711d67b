//! Common words and pairs of letters, counted in books, documentation and code. Each word is one
//! token in each of the tokenizers that `estimate` names: after a space, without one, and with a
//! capital.

/// Groups of letters. After the first letter of a group, the others are common.
const PAIRS: &str = "abcdgilmnprst beluy caehklort daeio eacdeflmnprstx fio ge haeio icdefglmnorstv ke ladefilostuy maeiop \
    nacdegostu ocdflmnoprstuw paelort ql raeginorstuy sehiopqstu taehiorstuy uelmnrst vae waehi";
const WORDS: &str = include_str!("words.txt");
const SLOTS: usize = 2048;

static COMMON_WORDS: [u64; SLOTS] = common_words();

pub(super) const fn is_common_pair(first: u8, second: u8) -> bool {
    let bytes = PAIRS.as_bytes();
    let (mut at, mut leads) = (0, b' ');
    while at < bytes.len() {
        if bytes[at] == b' ' || leads == b' ' {
            leads = bytes[at];
        } else if leads == first && bytes[at] == second {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a word is common. `letters` holds up to eight small letters, one in each byte.
#[inline]
pub(super) fn is_common_word(letters: u64) -> bool {
    let mut slot = slot(letters);
    while COMMON_WORDS[slot] != 0 {
        if COMMON_WORDS[slot] == letters {
            return true;
        }
        slot = (slot + 1) % SLOTS;
    }
    false
}

const fn slot(letters: u64) -> usize {
    (letters.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53) as usize
}

const fn common_words() -> [u64; SLOTS] {
    let mut table = [0; SLOTS];
    let bytes = WORDS.as_bytes();
    let (mut at, mut letters) = (0, 0);
    while at < bytes.len() {
        if bytes[at].is_ascii_lowercase() {
            letters = letters << 8 | bytes[at] as u64;
        } else if letters != 0 {
            let mut slot = slot(letters);
            while table[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            table[slot] = letters;
            letters = 0;
        }
        at += 1;
    }
    table
}
