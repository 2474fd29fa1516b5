//! Times as people write them (RFC 3339, section 5.6), and the moments that a replay goes to.

use penstock_event_schema::epoch::Seq;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::str::FromStr;

const DAY: u64 = 86_400;

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A time since the Unix epoch as `2026-01-31T08:30:00.123456789Z`.
pub fn show(time: Time) -> String {
    let (seconds, ns) = (time.0 / 1_000_000_000, time.0 % 1_000_000_000);
    let (mut days, second) = (seconds / DAY, seconds % DAY);
    let (mut year, mut month) = (1970, 1);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    while days >= days_of(year, month) {
        days -= days_of(year, month);
        month += 1;
    }
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let day = days + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

/// Reads what [`show`] writes, with any or no fraction and with `Z` or an offset.
pub fn parse(text: &str) -> Option<Time> {
    let (date, clock) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    if !(1970..=2500).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    if !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let zone_at = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let is_fraction = (1..=9).contains(&fraction.len()) && digits(fraction);
    let ns: u64 = is_fraction.then(|| format!("{fraction:0<9}").parse().ok())??;
    let leap_days = (1970..year).filter(|year| is_leap(*year)).count() as u64;
    let of_months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    let days = (year - 1970) * 365 + leap_days + of_months + day - 1;
    let seconds = days * DAY + hour * 3_600 + minute * 60 + second;
    let seconds = seconds.checked_add_signed(-offset_seconds(zone)?)?;
    Some(Time(seconds * 1_000_000_000 + ns))
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let parts: Vec<u64> = text
        .split(separator)
        .map(|part| if digits(part) { part.parse().ok() } else { None })
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let seconds = hours * 3_600 + minutes * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

/// A moment of a journal, as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Everything up to this time.
    Time(Time),
    /// Everything up to this record.
    Record(TopicPartition, Seq),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        if let Some(time) = parse(text) {
            return Ok(Moment::Time(time));
        }
        record(text).ok_or_else(|| {
            format!(
                "`{text}` is no moment: write a time such as 2026-01-31T08:30:00Z, or a record as \
                 TOPIC/TOPIC-PARTITION/SEQ, such as penstock.flow/12/345 (a record's id, which \
                 has the epoch before the number, will do)"
            )
        })
    }
}

fn record(text: &str) -> Option<Moment> {
    let parts: Vec<&str> = text.split('/').collect();
    let (topic, number, seq) = match parts[..] {
        [topic, number, seq] | [topic, number, _, seq] => (topic, number, seq),
        _ => return None,
    };
    let at = TopicPartition { topic: Topic::from_name(topic)?, number: number.parse().ok()? };
    Some(Moment::Record(at, Seq(seq.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_show() {
        let check = |text: &str, seconds: u64, ns: u64, shown: &str| {
            let time = parse(text).expect(text);
            assert_eq!(time, Time(seconds * 1_000_000_000 + ns), "{text}");
            assert_eq!(show(time), shown);
        };
        check("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00.000000000Z");
        check("2000-02-29T23:59:59.5Z", 951_868_799, 500_000_000, "2000-02-29T23:59:59.500000000Z");
        check("2026-11-23T08:30:00+02:00", 1_795_415_400, 0, "2026-11-23T06:30:00.000000000Z");
        check("2100-03-01t00:00:00.000000001z", 4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z");
        for wrong in ["", "2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn moments_read() {
        let check = |text: &str, topic, number, seq| {
            let at = TopicPartition { topic, number };
            assert_eq!(text.parse(), Ok(Moment::Record(at, Seq(seq))), "{text}");
        };
        check("penstock.flow/12/345", Topic::Flow, 12, 345);
        check("penstock.network/0/2/7", Topic::Network, 0, 7);
        for wrong in ["yesterday", "penstock.flow/12", "penstock.flows/1/2", "penstock.flow/1/x"] {
            let said = wrong.parse::<Moment>().expect_err(wrong);
            assert!(said.contains("is no moment"), "{said}");
        }
    }
}
