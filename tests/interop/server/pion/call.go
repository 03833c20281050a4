// Two pion PeerConnections with relayed addresses only, and a data channel between them.
//
//	call USERNAME PASSWORD TURN-URI...
//
// For each URI one line of JSON: the kinds of candidates of the pair in use, what came back over the
// data channel, or the error.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/pion/webrtc/v3"
)

const patience = 60 * time.Second

type outcome struct {
	URI           string `json:"uri"`
	Error         string `json:"error,omitempty"`
	Local         string `json:"local,omitempty"`
	Remote        string `json:"remote,omitempty"`
	RelayProtocol string `json:"relayProtocol,omitempty"`
	Word          string `json:"word,omitempty"`
}

func main() {
	for _, uri := range os.Args[3:] {
		result := outcome{URI: uri}
		if err := call(&result, os.Args[1], os.Args[2]); err != nil {
			result.Error = err.Error()
		}
		line, _ := json.Marshal(result)
		fmt.Println(string(line))
	}
}

func call(result *outcome, username, password string) error {
	caller, err := end(result.URI, username, password)
	if err != nil {
		return err
	}
	defer caller.Close()
	callee, err := end(result.URI, username, password)
	if err != nil {
		return err
	}
	defer callee.Close()

	trickle(caller, callee)
	trickle(callee, caller)
	callee.OnDataChannel(func(theirs *webrtc.DataChannel) {
		theirs.OnMessage(func(message webrtc.DataChannelMessage) {
			_ = theirs.SendText(string(message.Data) + " and back")
		})
	})
	channel, err := caller.CreateDataChannel("words", nil)
	if err != nil {
		return err
	}
	words := make(chan string, 1)
	channel.OnOpen(func() { _ = channel.SendText("a word") })
	channel.OnMessage(func(message webrtc.DataChannelMessage) { words <- string(message.Data) })
	if err := introduce(caller, callee); err != nil {
		return err
	}
	select {
	case result.Word = <-words:
	case <-time.After(patience):
		return fmt.Errorf("no word came back: ICE is %s", caller.ICEConnectionState())
	}
	return describe(result, caller)
}

func end(uri, username, password string) (*webrtc.PeerConnection, error) {
	return webrtc.NewPeerConnection(webrtc.Configuration{
		ICEServers: []webrtc.ICEServer{
			{URLs: []string{uri}, Username: username, Credential: password},
		},
		ICETransportPolicy: webrtc.ICETransportPolicyRelay,
	})
}

// trickle holds candidates back until there is a description to add them to.
func trickle(from, to *webrtc.PeerConnection) {
	from.OnICECandidate(func(found *webrtc.ICECandidate) {
		if found == nil {
			return
		}
		for to.RemoteDescription() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		_ = to.AddICECandidate(found.ToJSON())
	})
}

func introduce(caller, callee *webrtc.PeerConnection) error {
	offer, err := caller.CreateOffer(nil)
	if err != nil {
		return err
	}
	if err := caller.SetLocalDescription(offer); err != nil {
		return err
	}
	if err := callee.SetRemoteDescription(offer); err != nil {
		return err
	}
	answer, err := callee.CreateAnswer(nil)
	if err != nil {
		return err
	}
	if err := callee.SetLocalDescription(answer); err != nil {
		return err
	}
	return caller.SetRemoteDescription(answer)
}

func describe(result *outcome, end *webrtc.PeerConnection) error {
	pair, err := end.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil {
		return err
	}
	result.Local, result.Remote = pair.Local.Typ.String(), pair.Remote.Typ.String()
	for _, each := range end.GetStats() {
		if found, ok := each.(webrtc.ICECandidateStats); ok && found.Type == webrtc.StatsTypeLocalCandidate {
			result.RelayProtocol = found.RelayProtocol
		}
	}
	return nil
}
