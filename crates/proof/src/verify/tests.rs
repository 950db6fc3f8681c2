use super::unix_seconds;

#[test]
fn times_become_seconds() {
    assert_eq!(unix_seconds("1970-01-01T00:00:00.000000000Z"), Some(0));
    assert_eq!(unix_seconds("2000-02-29T12:00:01Z"), Some(951_825_601));
    assert_eq!(
        unix_seconds("2026-10-29T00:00:00.000000007Z"),
        Some(1_793_232_000)
    );
    for wrong in [
        "",
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-10-29T00:00:00+02:00",
    ] {
        assert_eq!(unix_seconds(wrong), None, "{wrong}");
    }
}
