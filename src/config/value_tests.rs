//! Tables of what each kind of value takes and refuses.

use super::*;

fn untyped<T: Value>(text: &str) -> Result<T, String> {
    T::read(&Raw::Untyped(text.to_owned()))
}

#[test]
fn values_read_and_written() {
    fn shown<T: Value>(text: &str) -> String {
        untyped::<T>(text)
            .map(|value| value.to_toml())
            .unwrap_or_else(|error| format!("error: {error}"))
    }
    for (read, toml) in [
        (shown::<u32>("64"), "64"),
        (shown::<usize>("0"), "0"),
        (shown::<Rate>("0"), "0.0"),
        (shown::<Rate>("1"), "1.0"),
        (shown::<Rate>("1.000"), "1.0"),
        (shown::<Rate>("0.05"), "0.05"),
        (shown::<Rate>("0.000001"), "0.000001"),
        (shown::<PathBuf>("/a b/\"c\""), r#""/a b/\"c\"""#),
        (shown::<Listen>("none"), "\"none\""),
        (shown::<Listen>("127.0.0.1:0"), "\"127.0.0.1:0\""),
        (shown::<Listen>("[::1]:8080"), "\"[::1]:8080\""),
        (shown::<Listen>("192.0.2.1:8080"), "\"192.0.2.1:8080\""),
        (shown::<Pace>("100/s"), "\"100/s\""),
        (shown::<Pace>("600/m"), "\"600/m\""),
        (shown::<Pace>("5000/h"), "\"5000/h\""),
        (
            shown::<BaseUrl>("http://127.0.0.1:9/x/"),
            "\"http://127.0.0.1:9/x\"",
        ),
        (
            shown::<BaseUrl>("https://gateway.example"),
            "\"https://gateway.example\"",
        ),
        (shown::<BaseUrl>("http://[::1]:9"), "\"http://[::1]:9\""),
        (shown::<LogLevel>("debug"), "\"debug\""),
        (
            shown::<LogLevel>("WARN,payd::http=trace"),
            "\"WARN,payd::http=trace\"",
        ),
        (
            shown::<LogLevel>("info,[payment{invoice}]=debug"),
            "\"info,[payment{invoice}]=debug\"",
        ),
        (shown::<Auth>("none"), "\"none\""),
        (shown::<LogFormat>("json"), "\"json\""),
        (shown::<KindWord>("http"), "\"http\""),
        (shown::<Duration>("90s"), "\"1m30s\""),
    ] {
        assert_eq!(read, toml);
    }
}

#[test]
fn values_refused() {
    fn message<T: Value>(raw: &Raw) -> String {
        T::read(raw).map(|value| value.to_toml()).unwrap_err()
    }
    let word = |text: &str| Raw::Untyped(text.to_owned());
    let string = |text: &str| Raw::Text(text.to_owned());
    let digits = |text: &str| Raw::Number(text.to_owned());
    for (message, hint) in [
        (message::<u32>(&word("-1")), "whole number"),
        (message::<u32>(&word("+1")), "whole number"),
        (message::<u32>(&word("4294967296")), "in range"),
        (message::<u32>(&digits("1.5")), "whole number"),
        (message::<u32>(&string("64")), "without quotes"),
        (message::<u32>(&Raw::Other("a table")), "not a number"),
        (message::<Rate>(&word("1.000001")), "from 0 to 1"),
        (message::<Rate>(&word("-0.1")), "from 0 to 1"),
        (message::<Rate>(&word("0.0000001")), "six places"),
        (message::<Rate>(&digits("1e-3")), "six places"),
        (message::<Rate>(&digits("nan")), "from 0 to 1"),
        (message::<Rate>(&digits("inf")), "from 0 to 1"),
        (message::<Rate>(&word("5%")), "from 0 to 1"),
        (message::<Rate>(&word(".5")), "from 0 to 1"),
        (message::<Rate>(&word("")), "from 0 to 1"),
        (message::<Rate>(&string("0.5")), "without quotes"),
        (message::<PathBuf>(&word("")), "empty"),
        (message::<PathBuf>(&word("~/x")), "whole path"),
        (message::<PathBuf>(&digits("1")), "quotes"),
        (message::<Listen>(&word("localhost:8080")), "127.0.0.1:8080"),
        (message::<Listen>(&word("8080")), "127.0.0.1:8080"),
        (message::<Listen>(&word("127.0.0.1")), "127.0.0.1:8080"),
        (
            message::<Listen>(&word("127.0.0.1:65536")),
            "127.0.0.1:8080",
        ),
        (message::<Pace>(&word("100")), "100/s"),
        (message::<Pace>(&word("0/s")), "100/s"),
        (message::<Pace>(&word("+1/s")), "100/s"),
        (message::<Pace>(&word("1/d")), "100/s"),
        (message::<Pace>(&word("1000001/s")), "100/s"),
        (message::<BaseUrl>(&word("gateway.example")), "http://"),
        (
            message::<BaseUrl>(&word("ftp://gateway.example")),
            "http://",
        ),
        (message::<BaseUrl>(&word("http://")), "URL"),
        (
            message::<BaseUrl>(&word("http://u:p@gateway.example")),
            "token_file",
        ),
        (
            message::<BaseUrl>(&word("http://gateway.example?key=1")),
            "query",
        ),
        (
            message::<BaseUrl>(&word("http://gateway.example/#a")),
            "fragment",
        ),
        (
            message::<BaseUrl>(&word("http://gateway.example:65536")),
            "port",
        ),
        (message::<BaseUrl>(&word("http://gateway.example:")), "port"),
        (message::<LogLevel>(&word("inof")), "off, error"),
        (message::<LogLevel>(&word("")), "off, error"),
        (message::<LogLevel>(&word("info,payd=loud")), "off, error"),
        (message::<Auth>(&word("TOKEN")), "token, none"),
        (message::<LogFormat>(&Raw::Other("a boolean")), "quotes"),
        (message::<Duration>(&digits("5")), "\"5s\""),
        (message::<Duration>(&Raw::Other("an array")), "\"2s\""),
    ] {
        assert!(message.contains(hint), "{hint:?} is not in {message:?}");
    }
}

#[test]
fn what_is_shown_is_bounded_and_plain() {
    assert_eq!(Raw::Text("a\n\u{1b}".to_owned()).shown(), r#""a\n\u{1b}""#);
    assert_eq!(Raw::Number("5".to_owned()).shown(), "5");
    assert!(Raw::Untyped("é".repeat(500)).shown().chars().count() < 100);
}
