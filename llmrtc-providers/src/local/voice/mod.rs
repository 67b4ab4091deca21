//! Speech synthesis by C libraries loaded at run time: Flite and eSpeak NG.
