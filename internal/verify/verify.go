// Package verify is the proof: digests gathered while a card is written, the
// reading back, what the bad ranges mean, the card's real capacity, and the
// words of the verdict. It does not know who asked, or why.
package verify
