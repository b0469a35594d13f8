package verify

// A Reason says in one stable word why a card did not become good. Reasons
// appear in messages, in JSON and in the journal, and never change.
type Reason string

// All the reasons there are.
const (
	ReadbackMismatch Reason = "readback-mismatch" // read back other bytes than were written
	ReadEIO          Reason = "read-eio"          // the card cannot read some of its own bytes
	WriteEIO         Reason = "write-eio"         // the card refuses to be written somewhere
	FlushFailed      Reason = "flush"             // the card could not empty its cache
	Stalled          Reason = "stalled"           // the card stopped answering
	Removed          Reason = "removed"           // the card or its reader was pulled
	TargetChanged    Reason = "target-changed"    // another card sits where the checked one sat
	TooSmall         Reason = "too-small"         // the image does not fit
	FakeCapacity     Reason = "fake-capacity"     // the card holds less than it says
	ReadOnly         Reason = "read-only"         // the card is write-protected
	Busy             Reason = "busy"              // another process holds the card
	Mounted          Reason = "mounted"           // a file system or swap on the card is in use
	SystemDisk       Reason = "system-disk"       // the running system needs this disk
	SourceOnTarget   Reason = "source-on-target"  // the image lies on the card
	ForeignWrite     Reason = "foreign-write"     // somebody else wrote to the card meanwhile
	UnstableRead     Reason = "unstable-read"     // the same place reads differently each time
	ImageDigest      Reason = "image-digest"      // the image is not what its digest says
	ImageDecode      Reason = "image-decode"      // the image cannot be decoded
	IDUnavailable    Reason = "id-unavailable"    // there is no name for the card
	Journal          Reason = "journal"           // what happened could not be recorded
	Interrupted      Reason = "interrupted"       // somebody ended the run
)
