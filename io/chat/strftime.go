package chat

import (
	"fmt"
	"strings"
	"time"
)

// strftime is Python's, in the C locale: the codes of the C library, and what it does not know as it stands.
func (r *render) strftime(t time.Time, format string) string {
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		flag := byte(0)
		if strings.IndexByte("-_0^#", format[i]) >= 0 && i+1 < len(format) {
			flag = format[i]
			i++
		}
		s, ok := timeField(t, format[i])
		if !ok {
			s = "%" + string(format[i])
		}
		s = flagged(s, flag)
		r.make(len(s))
		out.WriteString(s)
	}
	r.make(len(format))
	return out.String()
}

// flagged is a field under one of the C library's flags: - no padding, _ blanks, ^ capitals.
func flagged(s string, flag byte) string {
	unpadded := strings.TrimLeft(s, "0 ")
	if unpadded == "" && s != "" {
		unpadded = s[len(s)-1:]
	}
	switch flag {
	case '-':
		return unpadded
	case '_':
		return strings.Repeat(" ", len(s)-len(unpadded)) + unpadded
	case '0':
		return strings.ReplaceAll(s, " ", "0")
	case '^':
		return strings.ToUpper(s)
	case '#':
		if s == strings.ToUpper(s) {
			return strings.ToLower(s)
		}
		return strings.ToUpper(s)
	}
	return s
}

func timeField(t time.Time, code byte) (string, bool) {
	hour12 := (t.Hour()+11)%12 + 1
	year, week := t.ISOWeek()
	switch code {
	case 'a', 'A', 'b', 'B', 'h', 'p', 'y', 'Y', 'm', 'd', 'H', 'M', 'S', 'D', 'T', 'F', 'R':
		return t.Format(map[byte]string{
			'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'p': "PM", 'y': "06", 'Y': "2006", 'm': "01",
			'd': "02", 'H': "15", 'M': "04", 'S': "05", 'D': "01/02/06", 'T': "15:04:05", 'F': "2006-01-02", 'R': "15:04",
		}[code]), true
	case 'x':
		return t.Format("01/02/06"), true
	case 'X':
		return t.Format("15:04:05"), true
	case 'c':
		return t.Format("Mon Jan _2 15:04:05 2006"), true
	case 'r':
		return t.Format("03:04:05 PM"), true
	case 'e':
		return fmt.Sprintf("%2d", t.Day()), true
	case 'j':
		return fmt.Sprintf("%03d", t.YearDay()), true
	case 'I':
		return fmt.Sprintf("%02d", hour12), true
	case 'l':
		return fmt.Sprintf("%2d", hour12), true
	case 'k':
		return fmt.Sprintf("%2d", t.Hour()), true
	case 'P':
		return t.Format("pm"), true
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100), true
	case 'u':
		return fmt.Sprint((int(t.Weekday())+6)%7 + 1), true
	case 'w':
		return fmt.Sprint(int(t.Weekday())), true
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7), true
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7), true
	case 'V':
		return fmt.Sprintf("%02d", week), true
	case 'G':
		return fmt.Sprint(year), true
	case 'g':
		return fmt.Sprintf("%02d", year%100), true
	case 's':
		return fmt.Sprint(t.Unix()), true
	case 'z', 'Z': // local time has no zone in the reference
		return "", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case '%':
		return "%", true
	}
	return "", false
}
