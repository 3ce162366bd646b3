//! Kubernetes quantities to Proxmox's units.

const UNITS: &[(&str, u128)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// Bytes of a quantity; `None` where it is none, is negative, or is no whole number of bytes.
pub fn bytes(quantity: &str) -> Option<u128> {
    let (number, unit) = match UNITS.iter().find(|(suffix, _)| quantity.ends_with(suffix)) {
        Some((suffix, unit)) => (&quantity[..quantity.len() - suffix.len()], *unit),
        None => (quantity, 1),
    };
    let (number, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<u32>().ok()?),
        None => (number, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.len() > 20 {
        return None;
    }
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits
        .parse::<u128>()
        .ok()?
        .checked_mul(unit)?
        .checked_mul(10u128.checked_pow(exponent)?)?;
    (product % scale == 0).then_some(product / scale)
}

/// Whole MiB of a quantity of memory.
///
/// # Errors
/// The field, its value and the fix.
pub fn whole_mib(field: &str, quantity: &str) -> Result<i64, String> {
    let bytes = self::quantity(field, quantity)?;
    if bytes % (1 << 20) != 0 {
        let up = (bytes >> 20) + 1;
        let bare = quantity.bytes().all(|b| b.is_ascii_digit());
        let bare = bare.then(|| format!("{quantity}Mi (a number without unit is bytes), or "));
        let bare = bare.unwrap_or_default();
        return Err(format!(
            "{field}: {quantity:?} is not a whole number of MiB, which Proxmox counts in: use {bare}{up}Mi"
        ));
    }
    i64::try_from(bytes >> 20).map_err(|_| format!("{field}: {quantity:?} is too large"))
}

/// Bytes of the quantity in a field.
///
/// # Errors
/// The field, its value and what it should be.
pub fn quantity(field: &str, quantity: &str) -> Result<u128, String> {
    bytes(quantity).ok_or_else(|| format!("{field}: {quantity:?} is not a quantity of bytes such as 8Gi"))
}

/// A size as people write it: exactly, with at most two decimals, in the largest unit that allows it (`20Gi`, `1.5Gi`,
/// `8193Mi`).
pub fn words(bytes: u128) -> String {
    let units = UNITS[..6].iter().rev();
    let written = units.filter(|(_, unit)| bytes >= *unit).find_map(|(suffix, unit)| {
        let hundredths = (bytes % unit).checked_mul(100)?;
        if hundredths % unit != 0 {
            return None;
        }
        let fraction = match hundredths / unit {
            0 => String::new(),
            tenths if tenths % 10 == 0 => format!(".{}", tenths / 10),
            hundredths => format!(".{hundredths:02}"),
        };
        Some(format!("{}{fraction}{suffix}", bytes / unit))
    });
    written.unwrap_or_else(|| bytes.to_string())
}

/// [`words`] of whole MiB.
pub fn mib_words(mib: u64) -> String {
    words(u128::from(mib) << 20)
}

/// Bytes of a size as Proxmox writes it in property strings (`8G`, `512M`, `0T`), in which units are powers of 1024.
pub fn proxmox_bytes(size: &str) -> Option<u128> {
    let unit = match size.chars().last()? {
        'K' => 1u128 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        'T' => 1 << 40,
        _ => return bytes(size),
    };
    let number: f64 = size[..size.len() - 1].parse().ok()?;
    (number >= 0.0 && number.is_finite()).then_some((number * unit as f64) as u128)
}

/// Seconds of a duration such as `10s`, `5m` or `1h30m`.
pub fn seconds(duration: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut number = String::new();
    for c in duration.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    number.is_empty().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_write_them() {
        for (bytes, text) in [
            (20 << 30, "20Gi"),
            (512 << 20, "512Mi"),
            (3 << 29, "1.5Gi"),
            (5 << 28, "1.25Gi"),
            ((8 << 30) + (1 << 20), "8193Mi"),
            (21_474_836_481, "21474836481"),
            (1 << 40, "1Ti"),
            (0, "0"),
        ] {
            assert_eq!(words(bytes), text);
            assert_eq!(super::bytes(text), Some(bytes), "{text}");
        }
        assert_eq!(mib_words(72_000), "72000Mi");
    }

    #[test]
    fn quantities() {
        for (text, want) in [
            ("8Gi", Some(8 << 30)),
            ("0.5Gi", Some(1 << 29)),
            ("1e3", Some(1000)),
            ("1.5", None),
            ("128974848", Some(128_974_848)),
            ("2G", Some(2_000_000_000)),
            ("-1", None),
            ("", None),
            ("Gi", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
        assert_eq!(whole_mib("spec.memory", "72000Mi"), Ok(72000));
        let error = whole_mib("spec.memory", "10G").unwrap_err();
        assert_eq!(
            error,
            "spec.memory: \"10G\" is not a whole number of MiB, which Proxmox counts in: use 9537Mi"
        );
        assert_eq!(proxmox_bytes("32G"), Some(32 << 30));
        assert_eq!(proxmox_bytes("1.5G"), Some(3 << 29));
        assert_eq!(
            (seconds("1m30s"), seconds("10"), seconds("5m")),
            (Some(90), None, Some(300))
        );
    }
}
