//! Words that say what the number beside them is.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, FindIter, MatchKind};

/// What a cue announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cue {
    Card,
    Cvv,
    Expiry,
    Pin,
    Phone,
    Account,
    SortCode,
    Iban,
    Bic,
    Ssn,
    Id,
    Passport,
    Licence,
    Birth,
    Postcode,
    /// A date that is no birth date, a quantity, an order: whatever follows is not personal.
    Harmless,
}

/// Bytes between a cue and what it announces, at most.
pub(crate) const REACH: usize = 44;

#[rustfmt::skip]
const WORDS: &[(Cue, &[&str])] = &[
    (Cue::Card, &[
        "card", "card number", "credit card", "debit card", "card no", "cc number", "visa", "mastercard", "amex", "american express",
        "tarjeta", "tarjeta de crédito", "carte", "carte bancaire", "carte bleue", "numéro de carte", "kreditkarte", "karte", "kartennummer",
        "kreditkartennummer", "cartão", "cartao", "carta di credito", "creditcard", "kaartnummer", "pan",
    ]),
    (Cue::Cvv, &[
        "cvv", "cvc", "cvv2", "cvc2", "csc", "cvn", "card verification", "card verification code", "card verification value",
        "security code", "código de seguridad", "codigo de seguridad", "código de segurança", "codigo de seguranca", "code de sécurité",
        "cryptogramme", "prüfnummer", "kartenprüfnummer", "sicherheitscode", "prüfziffer", "codice di sicurezza", "three digits on the back",
        "digits on the back", "back of the card", "back of my card",
    ]),
    (Cue::Expiry, &[
        "expiry", "expiry date", "expiration", "expiration date", "exp", "exp date", "expires", "expiring", "valid thru", "valid until", "good thru",
        "caduca", "fecha de caducidad", "vencimiento", "validade", "expire", "date d'expiration", "gültig bis", "ablaufdatum", "scadenza",
    ]),
    (Cue::Pin, &[
        "pin", "pin code", "pin number", "pincode", "passcode", "otp", "one-time code", "one time code", "one-time password", "one time password",
        "verification code", "authentication code", "auth code", "login code", "security pin", "access code", "2fa code", "mfa code",
        "código de verificación", "codigo de verificacion", "código de verificação", "code de vérification", "code secret", "code pin",
        "bestätigungscode", "geheimzahl", "codice di verifica", "telephone pin",
    ]),
    (Cue::Phone, &[
        "phone", "phone number", "telephone", "tel", "tel.", "mobile", "mobile number", "cell", "cell phone", "cellphone", "call", "call me",
        "call me at", "text me", "reach me", "ring me", "whatsapp", "fax", "landline", "callback", "call back", "contact number", "sms",
        "phone no", "dial", "text", "my number", "number to reach me", "reachable", "contact", "voicemail", "ring", "hotline",
        "teléfono", "telefono", "móvil", "movil", "celular", "llámame", "llamame", "llámeme", "mi número",
        "téléphone", "portable", "mon numéro", "appelez", "appelez-moi", "rappelez", "joindre", "numéro de téléphone",
        "telefon", "telefonnummer", "handy", "handynummer", "mobilnummer", "rückruf", "rufnummer", "anrufen", "meine nummer", "festnetz",
        "telefone", "celular", "telemóvel", "telemovel", "meu número", "ligue", "ligar", "fone",
        "cellulare", "numero di telefono", "chiamami", "telefoonnummer", "mobiel", "bel me",
    ]),
    (Cue::Account, &[
        "account number", "account no", "account no.", "account #", "acct", "acct number", "bank account", "checking account", "savings account", "account",
        "routing", "routing number", "aba", "transit number", "bsb", "ifsc", "clabe", "cbu",
        "número de cuenta", "numero de cuenta", "cuenta", "cuenta bancaria", "compte", "numéro de compte", "compte bancaire", "konto", "kontonummer",
        "bankleitzahl", "blz", "conta", "número da conta", "conta bancária", "conto", "numero di conto", "rekening", "rekeningnummer",
    ]),
    (Cue::SortCode, &["sort code", "sort-code", "sortcode"]),
    (Cue::Iban, &["iban"]),
    (Cue::Bic, &["bic", "swift", "swift code", "bic code", "swift/bic", "bic/swift"]),
    (Cue::Ssn, &[
        "ssn", "social security", "social security number", "social", "itin", "taxpayer identification", "tin", "ss number", "ss#", "soc sec",
    ]),
    (Cue::Id, &[
        "national id", "my id", "id no", "id no.", "national identity", "national insurance", "national insurance number", "nino", "nhs", "nhs number", "id number", "identity number", "identity card",
        "id card", "national identification number", "government id", "tax id", "tax number", "tax file number", "tfn", "tax identification number", "sin", "social insurance", "social insurance number",
        "medicare", "medicare number", "medicaid", "aadhaar", "aadhar", "uidai", "pan card", "pan number", "ein", "employer identification number", "utr", "vat number",
        "dni", "nie", "nif", "nuss", "curp", "rfc", "rut", "run", "cuit", "cuil", "cédula", "cedula", "documento", "documento de identidad", "número de identidad", "seguridad social", "nss",
        "nir", "numéro de sécurité sociale", "sécurité sociale", "numéro de sécu", "carte d'identité", "carte vitale", "numéro fiscal", "spi", "siren", "siret",
        "steuer-id", "steuer-identifikationsnummer", "steueridentifikationsnummer", "steuernummer", "steuer-idnr", "idnr", "personalausweis", "personalausweisnummer", "ausweisnummer", "sozialversicherungsnummer", "rentenversicherungsnummer", "versichertennummer", "krankenversichertennummer",
        "cpf", "cnpj", "rg", "contribuinte", "número de contribuinte", "cartão de cidadão", "bilhete de identidade", "nis", "pis",
        "codice fiscale", "carta d'identità", "partita iva", "bsn", "burgerservicenummer", "sofinummer",
        "pesel", "personnummer", "personal number", "cpr", "ahv", "avs", "ahv-nummer", "numéro avs", "fødselsnummer", "henkilötunnus", "hetu", "egn", "oib", "cnp", "rodné číslo",
        "rijksregisternummer", "numéro national", "registre national", "my number card", "rrn", "nric", "fin number", "hkid", "pps number", "ppsn", "voter id", "resident id",
    ]),
    (Cue::Passport, &[
        "passport", "passport number", "passport no", "pasaporte", "passeport", "reisepass", "reisepassnummer", "passnummer", "passaporte", "passaporto", "paspoort",
    ]),
    (Cue::Licence, &[
        "driver's license", "driver’s license", "drivers license", "driver license", "driving licence", "driving license", "driver's licence", "driver licence", "drivers licence", "driver's license number", "driving licence number", "license number", "licence number", "dl number", "my license", "license no", "licence no", "license #",
        "licencia de conducir", "carnet de conducir", "permiso de conducir", "permis de conduire", "führerschein", "führerscheinnummer", "carteira de motorista", "carta de condução", "cnh", "patente", "rijbewijs",
    ]),
    (Cue::Birth, &[
        "born", "born on", "birth", "birth date", "birthdate", "date of birth", "dob", "d.o.b", "d.o.b.", "birthday",
        "nacido", "nacida", "nací", "nacimiento", "fecha de nacimiento", "cumpleaños", "né le", "née le", "né", "née", "naissance", "date de naissance", "anniversaire",
        "geboren", "geboren am", "geburtsdatum", "geburtstag", "geb.", "nascido", "nascida", "nasci", "nascimento", "data de nascimento", "nato il", "nata il", "data di nascita", "geboortedatum",
    ]),
    (Cue::Postcode, &[
        "zip", "zip code", "zipcode", "postcode", "post code", "postal code", "postal", "código postal", "codigo postal", "code postal", "postleitzahl", "plz", "cep", "cap", "eircode",
    ]),
    (Cue::Harmless, &[
        "zip file", "zip files", "zip archive", "gift card number",
        "order", "order number", "order no", "order id", "tracking", "tracking number", "invoice", "invoice number", "ticket", "ticket number", "case number", "case", "reference", "reference number", "ref", "ref.",
        "confirmation", "confirmation number", "confirmation code", "booking", "booking reference", "reservation", "reservation number", "room", "flight", "model", "model number", "serial", "serial number", "sku", "item", "item number",
        "part number", "product", "product code", "version", "build", "build number", "trace", "trace id", "traceid", "trace_id", "span id", "span_id", "request id", "request_id", "session id", "commit", "hash", "sha", "port", "error", "error code", "isbn", "ean", "upc", "barcode",
        "transaction id", "transaction", "page", "chapter", "quantity", "amount", "total", "price", "cost", "population", "year", "bytes", "timestamp", "duration", "revenue", "latency", "voice id", "voice_id", "process", "pid", "line",
        "imei", "vin", "gate", "platform", "table", "party", "score", "level", "seed", "batch", "lot", "coupon", "promo", "promo code", "gift card", "voucher", "article", "section", "rfc 2", "iso", "pi", "distance", "weight", "steps", "dimensions", "resolution", "chip", "release", "firmware", "driver version", "since", "until",
        "pedido", "factura", "reserva", "referencia", "habitación", "vuelo", "commande", "facture", "réservation", "référence", "chambre", "bestellung", "bestellnummer", "rechnung", "rechnungsnummer", "buchung", "zimmer", "auftrag", "aktenzeichen", "sendungsnummer", "encomenda", "fatura", "quarto", "ordine", "fattura", "prenotazione", "bestelling", "factuur",
    ]),
];

static AUTOMATON: LazyLock<(AhoCorasick, Vec<Cue>)> = LazyLock::new(|| {
    let (kinds, words): (Vec<Cue>, Vec<&str>) = WORDS
        .iter()
        .flat_map(|(cue, words)| words.iter().map(|word| (*cue, *word)))
        .unzip();
    let automaton = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::DFA))
        .build(words)
        .expect("the cue words are few and short");
    (automaton, kinds)
});

/// A cue in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) cue: Cue,
    pub(crate) end: usize,
}

/// Cues of a text, found from left to right and remembered as long as they are in reach. Allocates nothing.
pub(crate) struct Cues<'t> {
    text: &'t str,
    /// Made when the first candidate asks.
    matches: Option<FindIter<'static, 't>>,
    recent: [Option<Found>; 8],
    next: usize,
    ahead: Option<Found>,
    /// Whether there are no more. Asking the iterator again would search the rest of the text again.
    exhausted: bool,
    /// What the utterance before asked for, which counts where this one says nothing.
    previous: Option<Cue>,
}

impl<'t> Cues<'t> {
    pub(crate) fn new(text: &'t str, previous: Option<&str>) -> Self {
        Self {
            text,
            matches: None,
            recent: [None; 8],
            next: 0,
            ahead: None,
            exhausted: false,
            previous: previous.and_then(asked_for),
        }
    }

    /// The nearest cue that ends within [`REACH`] bytes before `start`; otherwise the one that follows at once ("… is my PIN"), `end` being where
    /// the candidate ends. Candidates come from left to right.
    pub(crate) fn around(&mut self, start: usize, end: usize) -> Option<Cue> {
        self.before(start)
            .map(|found| found.cue)
            .or_else(|| self.after(end))
            .or(self.previous)
    }

    /// The nearest cue that ends within [`REACH`] bytes before `start`.
    pub(crate) fn before(&mut self, start: usize) -> Option<Found> {
        self.advance(start);
        self.recent
            .iter()
            .flatten()
            .filter(|found| found.end <= start && start - found.end <= REACH)
            .max_by_key(|found| found.end)
            .copied()
    }

    /// Whether such a cue is among the recent ones, up to `reach` bytes back and even if another one is nearer.
    pub(crate) fn recently(&mut self, cue: Cue, start: usize, reach: usize) -> bool {
        self.advance(start);
        self.recent
            .iter()
            .flatten()
            .any(|found| found.cue == cue && found.end <= start && start - found.end <= reach)
    }

    fn advance(&mut self, upto: usize) {
        let matches = self
            .matches
            .get_or_insert_with(|| AUTOMATON.0.find_iter(self.text.as_bytes()));
        loop {
            match self.ahead.take() {
                Some(found) if found.end > upto => {
                    self.ahead = Some(found);
                    return;
                }
                Some(found) => {
                    self.recent[self.next % self.recent.len()] = Some(found);
                    self.next += 1;
                }
                None => {}
            }
            if self.exhausted {
                return;
            }
            let Some(found) = matches.next() else {
                self.exhausted = true;
                return;
            };
            if whole_word(self.text.as_bytes(), found.start(), found.end()) {
                self.ahead = Some(Found {
                    cue: AUTOMATON.1[found.pattern().as_usize()],
                    end: found.end(),
                });
            }
        }
    }

    /// "1234 is my PIN", "1234 (PIN)".
    fn after(&self, end: usize) -> Option<Cue> {
        const LINKS: &[&str] = &[
            " is my ",
            " is the ",
            " as my ",
            " was my ",
            "'s my ",
            " es mi ",
            " est mon ",
            " est ma ",
            " ist meine ",
            " ist mein ",
            " é o meu ",
            " é meu ",
            " è il mio ",
            " (",
        ];
        let rest = self.text.get(end..)?;
        let rest = LINKS.iter().find_map(|link| rest.strip_prefix(link))?;
        let word_end = rest.char_indices().nth(22).map_or(rest.len(), |(at, _)| at);
        let offset = self.text.len() - rest.len();
        let seen = &self.text[..offset + word_end];
        let found = AUTOMATON
            .0
            .find(aho_corasick::Input::new(seen).range(offset..))?;
        (found.start() - offset <= 8
            && whole_word(self.text.as_bytes(), found.start(), found.end()))
        .then(|| AUTOMATON.1[found.pattern().as_usize()])
    }
}

/// The last cue of an utterance.
fn asked_for(text: &str) -> Option<Cue> {
    let bytes = text.as_bytes();
    AUTOMATON
        .0
        .find_iter(bytes)
        .filter(|found| whole_word(bytes, found.start(), found.end()))
        .last()
        .map(|found| AUTOMATON.1[found.pattern().as_usize()])
}

/// Whether neither side goes on with a letter. A plural s does not count.
fn whole_word(bytes: &[u8], start: usize, end: usize) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte >= 0x80;
    let open_left = start == 0 || !letter(bytes[start - 1]);
    let open_right = match &bytes[end..] {
        [] => true,
        [b's' | b'S', next, ..] if !letter(*next) => true,
        [b's' | b'S'] => true,
        [next, ..] => !letter(*next),
    };
    open_left && open_right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_cue_counts_then_what_follows_then_the_question() {
        let check = |text: &str, previous: Option<&str>| {
            let at = text.find(|c: char| c.is_ascii_digit()).expect("a number");
            let end = at
                + text[at..]
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(text.len() - at);
            Cues::new(text, previous).around(at, end)
        };
        assert_eq!(check("my card has the pin 1234", None), Some(Cue::Pin));
        assert_eq!(check("1234 is my PIN", None), Some(Cue::Pin));
        assert_eq!(check("spinning 1234", None), None);
        assert_eq!(
            check("1234", Some("What is your passport number?")),
            Some(Cue::Passport)
        );
        assert_eq!(
            check("order number 1234", Some("Passport?")),
            Some(Cue::Harmless)
        );
    }
}
